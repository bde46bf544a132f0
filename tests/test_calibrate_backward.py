"""Gradients of every op against finite differences in float64, and of whole networks against those of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny import FAMILIES, Tiny, torch_model, write_gguf, write_hf

from pintpot.kernels.reference import Call, Memory
from pintpot.kernels.reference import attend as attend_op
from pintpot.kernels.reference import experts as experts_op
from pintpot.kernels.reference import linear as linear_op
from pintpot.kernels.reference import route as route_op
from pintpot.model.fused import FUSED
from pintpot.model.names import canonical_hf
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate import backward, backward_experts
from pintpot.packer.calibrate.backward import Backward
from pintpot.packer.calibrate.forward import Forward
from pintpot.program.spec import Op

Array = NDArray[np.float64]
LENGTH, STEP = 37, 1e-5
CHOSEN = 2
KINDS = [replace(tiny, window=16) if tiny.family == "mistral" else tiny for tiny in FAMILIES]


def made(tiny: Tiny, folder: Path) -> Model:
    return describe(str(write_hf(folder / "model", tiny)))


def first_block(model: Model, store: Store) -> tuple[Forward, tuple[Op, ...], Memory, np.random.Generator]:
    """A block's ops over drawn inputs in float64, with the model's own weights, norms and biases moved from 1 and 0."""
    rng = np.random.default_rng(3)
    forward = Forward(model, store, LENGTH)
    block = forward.blocks[0]
    memory: Memory = {name: values.astype(np.float64) for name, values in forward.values(block).items()}
    for name, values in memory.items():
        if values.ndim == 1:
            memory[name] = values + 0.3 * rng.normal(size=values.shape)
    memory[block.x] = rng.normal(size=(LENGTH, model.part("language").config["hidden_size"]))
    memory.update({name: table.astype(np.float64) for name, table in forward.tables.items()})
    return forward, block.ops, memory, rng


def ran(op: Op, memory: Memory, cache_shape: tuple[int, ...]) -> Array:
    """What the reference backend makes of an op, in float64."""
    own = dict(memory)
    order = np.arange(LENGTH)
    if op.kind in ("linear", "experts"):
        module = linear_op if op.kind == "linear" else experts_op
        module.run(op, Program(), own, Call(order, order, np.zeros_like(order), (), ()))  # type: ignore[arg-type]
    elif op.kind == "route":
        route_op.route(op, own, CHOSEN)
        return np.asarray(own[str(op.write("shares"))])
    else:
        for role in ("k", "v"):
            own[str(op.read(role))] = np.zeros(cache_shape)
        pages = tuple(range(cache_shape[0]))
        attend_op.run(op, Program(), own, Call(order, order, np.zeros_like(order), (), (pages,)))  # type: ignore[arg-type]
    return np.asarray(own[str(op.write("out"))])


def taking(into: dict[str, Array], shapes: Mapping[str, Any]) -> Callable[[str, Array, Array, int], None]:
    """Puts the gradients of weights, those of experts each in its place, into a dict."""

    def seen(name: str, rows: Array, grads: Array, first: int) -> None:
        whole = into.setdefault(name, np.zeros(shapes[name].shape))
        whole[first : first + grads.shape[1]] += grads.T @ rows

    return seen


class Program:
    """All that ops ask of their program here: buffers in float64."""

    class _Plain(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return type("Buffer", (), {"format": "f32"})

    by_name = _Plain()


def slope(op: Op, memory: Memory, name: str, along: Array, out: Array, cache: tuple[int, ...]) -> float:
    """The change of sum(out * what the op writes) along a direction of one buffer, by central differences."""
    ends = []
    for sign in (1, -1):
        moved = {**memory, name: memory[name] + sign * STEP * along}
        ends.append(float((ran(op, moved, cache) * out).sum()))
    return (ends[0] - ends[1]) / (2 * STEP)


@pytest.mark.parametrize("tiny", KINDS, ids=lambda tiny: tiny.family)
def test_each_op_has_the_gradients_of_finite_differences(tiny: Tiny, tmp_path: Path) -> None:
    model = made(tiny, tmp_path)
    with Store(model) as store:
        _, ops, memory, rng = first_block(model, store)
    kinds = []
    for op in ops:
        cache = (2, op.get("kv_heads", 1), 32, op.get("head_dim", 1))
        result = ran(op, memory, cache)
        out = rng.normal(size=result.shape)
        met: dict[str, Array] = {}
        if op.kind == "linear":
            found = backward.linear(op, memory, out, taking(met, memory))
        elif op.kind == "route":
            route_op.route(op, memory, CHOSEN)
            found = [backward_experts.route(op, memory, out)]
        elif op.kind == "experts":
            experts_op.experts(op, memory, lambda name, rows, tokens: rows)
            found = backward_experts.experts(op, memory, out, taking(met, memory))
        else:
            found = [(str(op.read("qkv")), backward.attend(op, memory, out))]
        grads = {**dict(found), **met}
        first = op.read("x") or op.read("qkv") or op.read("scores")
        assert set(grads) >= {first, op.read("shares"), *op.read_all("weight")} - {None}
        for name, grad in grads.items():
            along = rng.normal(size=memory[name].shape)
            wanted = slope(op, memory, name, along, out, cache)
            assert float((grad * along).sum()) == pytest.approx(wanted, rel=1e-5, abs=1e-6), (op.kind, name)
        kinds.append((op.kind, op.get("prologue")))
        memory[str(op.write("out") or op.write("shares"))] = result
    gate = "geglu" if tiny.family == "gemma3" else "swiglu"
    assert {"rmsnorm", gate, "none"} <= {prologue for _, prologue in kinds}
    assert "attend" in {kind for kind, _ in kinds}


def test_pairs_that_lie_side_by_side_turn_back_too(tmp_path: Path) -> None:
    model = describe(str(write_gguf(tmp_path / "m.gguf", Tiny(), "f16")))
    with Store(model) as store:
        _, ops, memory, rng = first_block(model, store)
    attend = next(op for op in ops if op.kind == "attend")
    qkv, cache = str(attend.read("qkv")), (2, attend.get("kv_heads"), 32, attend.get("head_dim"))
    memory[qkv] = rng.normal(size=(LENGTH, (attend.get("heads") + 2 * attend.get("kv_heads")) * attend.get("head_dim")))
    out = rng.normal(size=ran(attend, memory, cache).shape)
    along = rng.normal(size=memory[qkv].shape)
    wanted = slope(attend, memory, qkv, along, out, cache)
    assert float((backward.attend(attend, memory, out) * along).sum()) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("tiny", FAMILIES, ids=lambda tiny: tiny.family)
def test_networks_have_the_gradients_that_pytorch_finds(tiny: Tiny, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = made(tiny, tmp_path)
    rng = np.random.default_rng(5)
    texts = rng.integers(3, 300, (2, LENGTH)).tolist()
    lengths = [LENGTH, LENGTH]
    theirs = torch_model(tmp_path / "model")
    hidden = theirs.model(torch.tensor(texts)).last_hidden_state
    out = rng.normal(size=hidden.shape).astype(np.float32)
    (hidden * torch.from_numpy(out)).sum().backward()
    grads: dict[str, NDArray[Any]] = {}
    with Store(model) as store:
        forward = Forward(model, store, LENGTH)
        states = [forward.embedded(texts)]
        for block in forward.blocks:
            states.append(forward.run(block, forward.values(block), states[-1], lengths))
        at = backward.before(
            forward.head,
            {str(forward.head.read("x")): states[-1], "norm": forward.weight("norm")},
            out.reshape(states[-1].shape),
        )
        for block, before in zip(reversed(forward.blocks), reversed(states[:-1]), strict=True):
            values = forward.values(block)
            at = Backward(forward).run(block, values, before, at, lengths, taking(grads, values))
    compared = 0
    for name, parameter in theirs.named_parameters():
        layer, _, role = str(canonical_hf(name, tiny.family)).rpartition(".")
        if not layer or parameter.ndim < 2:
            continue
        wanted = parameter.grad.numpy()
        parts = [grads[f"{layer}.{one}"] for one in FUSED.get(role, (role,))]
        by_expert = [part.reshape(*wanted.shape[:-2], -1, wanted.shape[-1]) for part in parts]
        found = np.concatenate(by_expert, axis=-2)
        np.testing.assert_allclose(found, wanted, atol=2e-4 * float(np.abs(wanted).max()), err_msg=name)
        compared += 1
    assert compared == len(forward.blocks) * (4 if tiny.family == "phi3" else 7)
