"""Native passes between the products of a step that learns: beside PyTorch's autograd, and the same bits everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from pintpot._native import Pool, available_isas, learn
from pintpot.formats.registry import encoding, num_strips
from pintpot.formats.tiles import unpack
from pintpot.kernels.torch import heads, passes
from pintpot.kernels.torch.attention import attention
from pintpot.kernels.torch.heads import Heads
from pintpot.kernels.torch.products import Beside, products

ISAS = available_isas()
KINDS = (torch.float32, torch.bfloat16)
NEAR = {torch.float32: 2e-6, torch.bfloat16: 4e-3}
"""Half a step of bfloat16 is 2e-3 of a value."""


@pytest.fixture(autouse=True)
def drawn():
    torch.manual_seed(3)


def typed(x):
    return x.data_ptr(), x.dtype == torch.bfloat16


def apart(found, wanted) -> float:
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [7, 48, 100])
def test_norms_go_forward_and_back_as_autograd_does(kind, columns):
    x = torch.randn(33, columns).to(kind).requires_grad_()
    weight, grad = (1 + torch.rand(columns)).requires_grad_(), torch.randn(33, columns).to(kind)
    exact = x.double()
    wanted = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + 1e-5) * weight.double()
    by_x, by_weight = torch.autograd.grad(wanted, (x, weight), grad.double())
    found = passes.norm(x, weight, 1e-5, kind)
    assert found.dtype == kind
    assert apart(found, wanted) < NEAR[kind]
    own_x, own_weight = passes.norm_back(x, weight, grad, 1e-5, (True, True))
    assert apart(own_x, by_x) < NEAR[kind]
    assert apart(own_weight, by_weight) < NEAR[kind]
    assert passes.norm_back(x, weight, grad, 1e-5, (False, True))[0] is None
    assert passes.norm_back(x, weight, grad, 1e-5, (True, False))[1] is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "act"), [("swiglu", functional.silu), ("geglu", None)])
def test_gates_go_forward_and_back_as_autograd_does(kind, name, act):
    act = act or (lambda z: functional.gelu(z, approximate="tanh"))
    gate, up = ((torch.randn(5, 411) * 4).to(kind).requires_grad_() for _ in range(2))
    grad = torch.randn(5, 411).to(kind)
    wanted = act(gate.double()) * up.double()
    by_gate, by_up = torch.autograd.grad(wanted, (gate, up), grad.double())
    assert apart(passes.gate(gate, up, name), wanted) < NEAR[kind]
    found = passes.gate_back(gate, up, grad, name)
    assert apart(found[0], by_gate) < NEAR[kind]
    assert apart(found[1], by_up) < NEAR[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 8, 13])
def test_thin_matrices_are_multiplied_added_and_summed(kind, rank):
    x, thin, inner = torch.randn(37, 90).to(kind), torch.randn(rank, 90), torch.randn(37, rank)
    assert apart(passes.thin_products(x, thin, 0.5), 0.5 * x.double() @ thin.double().T) < NEAR[torch.float32]
    assert apart(passes.thin_sums(x, inner, 3.0), 3.0 * inner.double().T @ x.double()) < NEAR[torch.float32]
    wanted = x.double() + 0.25 * inner.double() @ thin.double()
    passes.add_thin(x, inner, thin, 0.25)
    assert apart(x, wanted) < NEAR[kind]


def test_what_is_added_to_states_stays_exact():
    made, states = torch.randn(3, 1025).bfloat16(), torch.randn(3, 1025)
    assert torch.equal(passes.join(made, states), states + made.float())


@pytest.mark.parametrize("name", ["aff4", "nf4", "nf4_32", "sym8", "aff5", "q4_k"])
def test_strips_become_rows_of_either_type(name):
    rng = np.random.default_rng(4)
    rows, columns = 41, 256
    strips = rng.integers(0, 256, (num_strips(rows), encoding(name).strip_bytes(columns)), np.uint8)
    strips[:, : encoding(name).scale_bytes(columns)] = 0x31
    wanted = torch.from_numpy(unpack(strips, name, rows, columns))
    for kind in KINDS:
        found = torch.empty((20, columns), dtype=kind)
        passes.expand(strips, name, 7, found)
        assert torch.equal(found, wanted[7:27].to(kind))
    assert wanted.abs().max() > 0


def test_what_is_no_number_stays_none():
    strange = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    assert passes.norm(torch.ones(3, 2), strange, 1e-5, torch.bfloat16).isnan().all()
    x = torch.full((2, 40), torch.nan).bfloat16()
    assert passes.norm(x, torch.ones(40), 1e-5, torch.bfloat16).isnan().all()
    assert passes.gate(x, x, "swiglu").isnan().all()


def test_no_rows_are_nothing_to_do():
    none = torch.empty(0, 8)
    assert passes.norm(none, torch.ones(8), 1e-5, torch.float32).shape == (0, 8)
    assert torch.equal(passes.norm_back(none, torch.ones(8), none, 1e-5, (True, True))[1], torch.zeros(8))
    assert passes.gate(none, none, "swiglu").shape == (0, 8)
    assert passes.join(none, none).shape == (0, 8)


def test_rows_of_other_types_are_refused():
    with pytest.raises(TypeError, match="goes with"):
        passes.gate(torch.ones(2, 4), torch.ones(2, 5), "swiglu")
    with pytest.raises(TypeError, match="float64"):
        passes.norm(torch.ones(2, 4, dtype=torch.float64), torch.ones(4), 1e-5, torch.float32)
    with pytest.raises(TypeError, match="one after the other"):
        passes.add_thin(torch.ones(4, 8).T, torch.ones(8, 1), torch.ones(1, 4))


SHAPES = {
    "several queries a key": (2, 130, 6, 2, 32, 32, "half", 0),
    "pairs side by side, some columns turned": (2, 70, 4, 2, 48, 32, "interleaved", 0),
    "a window": (1, 200, 2, 1, 16, 16, "half", 40),
    "wide heads": (1, 65, 2, 2, 256, 64, "half", 0),
    "one token": (3, 1, 1, 1, 20, 20, "half", 0),
}


def given(sequences, length, num_heads, kv_heads, columns, turned, layout, window):
    q, k, v = (torch.randn(sequences, length, count, columns).bfloat16() for count in (num_heads, kv_heads, kv_heads))
    angles = torch.randn(sequences, length, turned // 2)
    angles = torch.cat((angles.cos(), angles.sin()), dim=-1)
    lowest = (torch.arange(length, dtype=torch.int32) - window + 1).clamp(min=0).repeat(sequences, 1)
    how = Heads(num_heads, kv_heads, columns**-0.5, lambda: angles, layout, lambda: lowest if window else None)
    return q, k, v, how, torch.randn(q.shape).bfloat16()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_attention_in_one_pass_is_that_of_products_in_float32(shape):
    q, k, v, how, grad = given(*shape)
    exact = [one.float().requires_grad_() for one in (q, k, v)]
    wanted = attention(*exact, how)
    by = torch.autograd.grad(wanted, exact, grad.float())
    found = (heads.forward(q, k, v, how), *heads.back(q, k, v, grad, how))
    for one, other in zip(found, (wanted, *by), strict=True):
        assert one.dtype == torch.bfloat16
        assert one.shape == other.shape
        # A single token's gradients of q and k are 0.
        assert apart(one, other) < 6e-3 if other.norm() > 1e-4 else one.float().norm() < 1e-2


def test_nobody_sees_an_earlier_example():
    q, k, v, how, _ = given(1, 96, 2, 1, 32, 32, "half", 0)
    lowest = torch.tensor([[0] * 50 + [50] * 46], dtype=torch.int32)
    apart_how = Heads(how.heads, how.kv_heads, how.scale, how.angles, how.layout, lambda: lowest)
    whole = heads.forward(q, k, v, apart_how)
    changed = k.clone()
    changed[:, :50] = 7.0
    assert torch.equal(whole[:, 50:], heads.forward(q, changed, v, apart_how)[:, 50:])
    assert not torch.equal(whole[:, :50], heads.forward(q, changed, v, apart_how)[:, :50])


def rows_on(isa: str, pool: Pool) -> list:
    generator = torch.Generator().manual_seed(5)
    x, gate = (torch.randn(9, 75, generator=generator).bfloat16() for _ in range(2))
    weight, thin, out = torch.rand(75, generator=generator), torch.randn(3, 75, generator=generator), []

    def like(one, count=1):
        made = [torch.empty_like(one) for _ in range(count)]
        out.extend(made)
        return made

    (normed,), (by_x,), (by_weight,) = like(x), like(x), like(weight)
    learn.norm(pool, typed(x), weight.data_ptr(), typed(normed), 9, 75, 1e-5, isa)
    at = by_x.data_ptr(), by_weight.data_ptr()
    learn.norm_back(pool, typed(x), weight.data_ptr(), typed(gate), *at, 9, 75, 1e-5, isa)
    assert torch.isfinite(by_weight).all()
    (gated,), (by_gate, by_up) = like(x), like(x, 2)
    learn.gate(pool, "geglu", gate.data_ptr(), x.data_ptr(), typed(gated), x.numel(), isa)
    by = by_gate.data_ptr(), by_up.data_ptr()
    learn.gate_back(pool, "swiglu", gate.data_ptr(), x.data_ptr(), typed(normed), *by, x.numel(), isa)
    inner, sums = torch.empty(9, 3), torch.empty(3, 75)
    learn.thin_products(pool, typed(x), thin.data_ptr(), inner.data_ptr(), 9, 75, 3, 1.0, isa)
    learn.thin_sums(pool, typed(x), inner.data_ptr(), sums.data_ptr(), 9, 75, 3, 1.0, isa)
    learn.thin_added(pool, typed(gated), thin.data_ptr(), inner.data_ptr(), 9, 75, 3, 1.0, isa)
    return [*out, inner, sums]


def attention_on(isa: str, pool: Pool) -> list:
    torch.manual_seed(8)
    q, k, v, how, grad = given(1, 130, 2, 1, 40, 32, "half", 70)
    angles, lowest, out = how.angles(), how.lowest(), [torch.empty_like(one) for one in (q, q, k, v)]
    call = learn.Attention(1, 130, 2, 1, 40, 32, False, how.scale)
    call.read(q.data_ptr(), k.data_ptr(), v.data_ptr(), angles.data_ptr(), lowest.data_ptr())
    scratch = torch.empty(call.scratch_bytes(isa) * pool.size, dtype=torch.uint8)
    call.forward(pool, out[0].data_ptr(), scratch.data_ptr(), isa)
    call.back(pool, grad.data_ptr(), tuple(one.data_ptr() for one in out[1:]), scratch.data_ptr(), isa)
    return out


@pytest.mark.parametrize(("on", "threads"), [(rows_on, 1), (attention_on, 2)])
def test_every_instruction_set_gives_the_same_bits(on, threads):
    """Heads go to threads as they come, sums over rows are a part's, and as many threads have other parts."""
    wanted = on(ISAS[-1], Pool(1))
    for isa in ISAS:
        for one, other in zip(on(isa, Pool(threads)), wanted, strict=True):
            assert torch.equal(one, other), isa


@pytest.mark.parametrize(
    ("wrong", "why"),
    [((1, 4, 3, 2, 32, 32), "heads"), ((1, 4, 2, 1, 512, 32), "head_dim"), ((1, 4, 2, 1, 32, 33), "rope")],
)
def test_heads_of_no_kind_are_refused(wrong, why):
    with pytest.raises(ValueError, match=why):
        learn.Attention(*wrong, False, 1.0)


def test_adapters_that_rest_pass_gradients_on():
    rows, weight = torch.randn(6, 20).requires_grad_(), torch.randn(12, 20)
    a, b, grad = torch.randn(3, 20), torch.randn(12, 3), torch.randn(6, 12)
    (found,) = products(rows, Beside({"w": weight}, ["w"], 0.5), [None], [(a, b)])
    wanted = rows @ weight.T + 0.5 * (rows @ a.T) @ b.T
    one, other = (torch.autograd.grad(out, rows, grad)[0] for out in (found, wanted))
    assert apart(found, wanted) < 1e-6
    assert apart(one, other) < 1e-6
