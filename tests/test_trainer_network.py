"""A network that learns: losses and gradients are those of transformers with the same weights and adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from learning import HOW, Adapted, drawn_sequences, folder_of, gathering, made
from tiny import FAMILIES, K_QUANT, Tiny, torch_model, write_gguf

from pintpot.budget import Train, Workload
from pintpot.contract.form import source_form
from pintpot.contract.training import TrainingForm
from pintpot.errors import Diverged, UnsupportedModel
from pintpot.formats.convert import convert
from pintpot.formats.tiles import unpack
from pintpot.kernels.torch.loss import cross_entropy, head_grad
from pintpot.model.names import hf_name
from pintpot.model.read import describe
from pintpot.model.store import Store
from pintpot.nets._training import training_work
from pintpot.program.spec import Op
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.normal_float import NormalFloat
from pintpot.trainer.inside import Inside
from pintpot.trainer.learned import Learned, Pace
from pintpot.trainer.packing import NOT_LEARNED, Sequences
from pintpot.trainer.weights import Weights

TRAIN = Train(length=40, sequences=3, steps=4)
DENSE = [tiny for tiny in FAMILIES if not tiny.has_experts]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(Tiny(family="qwen2", heads=4, kv_heads=2), tmp_path_factory.mktemp("net"))


@pytest.mark.parametrize("tiny", DENSE, ids=[f"{tiny.family}-{tiny.seed}" for tiny in DENSE])
def test_losses_and_gradients_are_those_of_transformers(tmp_path: Path, tiny: Tiny) -> None:
    at = folder_of(tiny, tmp_path)
    roles = ("o", "down") if tiny.family == "phi3" else HOW.roles  # phi3 calls q, k and v one matrix
    sequences = drawn_sequences(3, 40, tiny.vocab)
    with made(at, replace(HOW, roles=roles), TRAIN) as ours:
        theirs = Adapted.of(at, ours)
        expected = theirs.losses(sequences)
        assert torch.allclose(ours.network.losses(sequences), expected, atol=3e-5)
        expected.mean().backward()
        found: dict[str, torch.Tensor] = {}
        loss = ours.network.learn(sequences, found.update)
        assert loss == pytest.approx(float(expected.detach().mean()), rel=1e-5)
        assert set(found) == set(theirs.parameters)
        for name, grad in found.items():
            wanted = theirs.parameters[name].grad
            assert wanted is not None
            assert torch.allclose(grad, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())), name


EVERY = [FAMILIES[0], FAMILIES[1], FAMILIES[3], FAMILIES[4]]


@pytest.mark.parametrize("tiny", EVERY, ids=[f"{tiny.family}-{tiny.seed}" for tiny in EVERY])
def test_every_weight_has_the_gradient_that_transformers_finds(tmp_path: Path, tiny: Tiny) -> None:
    at, sequences = folder_of(tiny, tmp_path), drawn_sequences(3, 40, tiny.vocab)
    how = TrainingForm(at_once=2, fused=True, states="f32")
    model = torch_model(at)
    ids = torch.from_numpy(sequences.tokens).long()
    expected = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    expected.backward()
    with made(at, how, TRAIN) as ours:
        found: list[str] = []

        def told(grads: Mapping[str, torch.Tensor], first: int = 0) -> None:
            for name, grad in grads.items():
                wanted = model.get_parameter(hf_name(name, tiny.family)).grad[first : first + len(grad)]
                assert torch.allclose(grad, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())), name
            found.extend(() if first else grads)

        assert ours.network.learn(sequences, told) == pytest.approx(expected.item(), rel=1e-5)
        assert sorted(found) == sorted(ours.learned.values)
        assert len(found) == len(list(model.parameters()))
        # What is updated is what is multiplied with from then on.
        before = ours.network.losses(sequences).mean()
        step = partial(ours.learned.update, pace=Pace(1e-3), step=0, steps=1)
        ours.network.learn(sequences, step)
        assert ours.network.losses(sequences).mean() < before


def test_every_weight_learns_in_bfloat16_too(folder: Path) -> None:
    how = TrainingForm(at_once=2, fused=True, states="f32", computed_in="bf16")
    sequences = drawn_sequences(2, 40, 384)
    with made(folder, how, TRAIN, held=True) as near, made(folder, replace(how, computed_in="f32"), TRAIN) as exact:
        grads, wanted = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
        near.network.learn(sequences, gathering(grads))
        exact.network.learn(sequences, gathering(wanted))
    for name, grad in grads.items():
        # Of sequences that all pass at once gradients stay as products gave them.
        assert grad.dtype == (torch.float32 if grad.dim() == 1 or "." not in name else torch.bfloat16), name
        assert float((grad.float() - wanted[name]).norm() / wanted[name].norm()) < 0.05, name


def test_examples_that_share_a_sequence_do_not_see_each_other(folder: Path) -> None:
    lengths = (12, 20, 8)
    parts = [drawn_sequences(1, length, 384, seed=length) for length in lengths]
    with made(folder, HOW, TRAIN) as ours:
        alone = torch.cat([ours.network.losses(part) for part in parts])
        first = np.cumsum([0, *lengths])
        starts = np.concatenate([np.full(n, at) for n, at in zip(lengths, first, strict=False)])[None].astype(np.int32)
        tokens, targets = (np.concatenate([getattr(p, k) for p in parts], axis=1) for k in ("tokens", "targets"))
        together = ours.network.losses(Sequences(tokens, targets, starts))
    assert torch.allclose(alone, together, atol=2e-5)


def test_how_many_sequences_are_computed_at_once_changes_nothing(folder: Path) -> None:
    sequences, found = drawn_sequences(3, 40, 384), []
    for at_once in (1, 2, 3):
        with made(folder, replace(HOW, at_once=at_once), TRAIN) as ours:
            grads: dict[str, torch.Tensor] = {}
            ours.network.learn(sequences, grads.update)
            found.append(grads)
    for grads in found[1:]:
        assert all(torch.allclose(grad, found[0][name], rtol=1e-3, atol=1e-6) for name, grad in grads.items())


@pytest.mark.parametrize("floats", ["f32", "bf16"])
def test_what_stays_changes_no_bit(folder: Path, floats: str) -> None:
    """Adapters and every weight, held or lent for a block at a time: blocks are not computed again, and that is all."""
    sequences = drawn_sequences(3, 40, 384)
    ways = [replace(HOW, computed_in=floats), TrainingForm(at_once=3, fused=True, computed_in=floats)]
    for how, held in ((how, held) for how in ways for held in (True, False) if held or how.rank):
        found = []
        for stays in (0, 1, 2, 9):
            with made(folder, replace(how, stays=stays), TRAIN, held=held) as ours:
                grads: dict[str, torch.Tensor] = {}
                loss = ours.network.learn(sequences, gathering(grads))
                found.append((loss, grads))
        for loss, grads in found[1:]:
            assert loss == found[0][0]
            assert grads.keys() == found[0][1].keys()
            assert all(torch.equal(grad, found[0][1][name]) for name, grad in grads.items())


@pytest.mark.parametrize("tiny", DENSE, ids=[f"{tiny.family}-{tiny.seed}" for tiny in DENSE])
@pytest.mark.parametrize("how", [HOW, TrainingForm(fused=True)], ids=["adapters", "all"])
def test_what_stays_is_what_was_promised(tmp_path: Path, tiny: Tiny, how: TrainingForm) -> None:
    at = folder_of(tiny, tmp_path)
    roles = ("o", "down") if tiny.family == "phi3" else HOW.roles
    sequences, held = drawn_sequences(3, 40, tiny.vocab), list[int]()
    how = replace(how, roles=roles if how.rank else (), computed_in="bf16", at_once=2, stays=1)
    with made(at, how, TRAIN) as ours, pytest.MonkeyPatch.context() as patch:
        rest = Inside.rest

        def resting(inside: Inside[Op]) -> torch.Tensor:
            out = rest(inside)
            held.append(sum(one.nbytes for one in inside.tensors))
            return out

        patch.setattr(Inside, "rest", resting)
        ours.network.learn(sequences, gathering({}))
        work = training_work(ours.model.part("language"), ours.form, Workload(train=TRAIN))
        forward = work.stage("forward").programs[0]
    promised = [prod(forward.shape(name)) for op in forward.ops for role, name in op.writes if role == "saved"]
    assert sum(held) == sum(promised)


@pytest.mark.parametrize("source", ["q4_1", "q8_0", "f16"])
def test_weights_come_as_the_file_has_them(tmp_path: Path, source: str) -> None:
    """Held, expanded for each block, or in chunks: the same floats, and the same losses."""
    file = write_gguf(tmp_path / "m.gguf", Tiny(tied=True), source)
    sequences = drawn_sequences(2, 40, 384)
    losses = []
    for held in (True, False):
        with made(file, HOW, TRAIN, held=held) as ours:
            losses.append(ours.network.losses(sequences))
    assert torch.equal(losses[0], losses[1])


def test_nf4_weights_are_multiplied_as_their_strips_say(folder: Path) -> None:
    step, model = NormalFloat("blocks"), describe(str(folder))
    form = replace(step.promise(source_form(model)), training=HOW)
    with Store(model) as store:
        weights = Weights(model, store, form, (step,))
        kept = form.weights.by_name["layers.0.gate"]
        strips = convert(store.read("layers.0.gate"), "f32", "nf4", kept.shape[1])
        assert torch.equal(weights.tensor(kept.name), torch.from_numpy(unpack(strips, "nf4", *kept.shape)))
        assert torch.equal(torch.cat([rows for _, rows in weights.rows(kept.name, 48)]), weights.tensor(kept.name))
        weights.close()
    with made(folder, HOW, TRAIN, step) as rounded, made(folder, HOW, TRAIN) as exact:
        sequences = drawn_sequences(2, 40, 384)
        assert not torch.equal(rounded.network.losses(sequences), exact.network.losses(sequences))


def test_bfloat16_is_near(folder: Path) -> None:
    sequences = drawn_sequences(2, 40, 384)
    with made(folder, HOW, TRAIN) as exact, made(folder, replace(HOW, computed_in="bf16"), TRAIN) as near:
        a, b = exact.network.losses(sequences), near.network.losses(sequences)
    assert torch.allclose(a, b, rtol=0.02, atol=0.02)
    assert not torch.equal(a, b)


def test_fresh_adapters_change_nothing_and_a_seed_repeats_them(folder: Path) -> None:
    sequences = drawn_sequences(2, 40, 384)
    with made(folder, HOW, TRAIN, drawn=False) as fresh, made(folder, replace(HOW, roles=("o",)), TRAIN) as other:
        assert not other.learned.values.keys() & fresh.learned.values.keys()
        for name, value in Learned.adapters(fresh.form, seed=0).values.items():
            assert torch.equal(value, fresh.learned.values[name])
        for name in other.learned.values:
            other.learned.values[name].zero_()
        assert torch.equal(fresh.network.losses(sequences), other.network.losses(sequences))


def test_adamw_is_that_of_pytorch() -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(5, 7, generator=draw)
    learned, theirs = Learned({"w": start.clone()}), start.clone().requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, foreach=False)
    for step in range(5):
        theirs.grad = torch.randn(5, 7, generator=draw)
        learned.update({"w": theirs.grad}, Pace(0.01, weight_decay=0.1), step, 5)
        optimizer.step()
    assert torch.allclose(learned.values["w"], theirs.detach(), rtol=1e-6, atol=1e-7)


def test_the_rate_rises_and_falls() -> None:
    pace = Pace(1.0, warmup=4, schedule="cosine")
    rates = [pace.rate(step, 104) for step in range(105)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert sorted(rates[4:], reverse=True) == rates[4:]


@pytest.mark.parametrize("chunk", [7, 16, 50])
def test_the_loss_over_a_vocabulary_in_pieces(chunk: int) -> None:
    draw = torch.Generator().manual_seed(0)
    states = (3 * torch.randn(9, 6, generator=draw)).requires_grad_()
    head = torch.randn(50, 6, generator=draw).requires_grad_()
    targets = torch.randint(0, 50, (9,), generator=draw)
    expected = torch.nn.functional.cross_entropy(states @ head.T, targets, reduction="none")
    expected.sum().backward()

    def rows() -> list[tuple[int, torch.Tensor]]:
        return [(first, head.detach()[first : first + chunk]) for first in range(0, 50, chunk)]

    found = cross_entropy(states.detach(), targets, rows)
    assert torch.allclose(found.losses, expected.detach(), atol=1e-5)
    assert states.grad is not None
    assert head.grad is not None
    assert found.grads is not None
    assert torch.allclose(found.grads, states.grad, atol=1e-5)
    given = (states.detach(), targets), (found.log_z, 0.3)
    own = torch.cat([head_grad(*given[0], first, some, *given[1]) for first, some in rows()])
    assert torch.allclose(own, 0.3 * head.grad, atol=1e-5)


def test_a_value_that_is_no_number_is_found(folder: Path) -> None:
    with made(folder, HOW, TRAIN) as ours:
        ours.learned.values["layers.1.v.lora_b"][0, 0] = float("nan")
        with pytest.raises(Diverged, match=r"layers\.1 is the first"):
            ours.network.learn(drawn_sequences(2, 40, 384), lambda _: None)


def test_experts_are_refused(tmp_path: Path) -> None:
    at = folder_of(next(tiny for tiny in FAMILIES if tiny.family == "mixtral"), tmp_path)
    with pytest.raises(UnsupportedModel, match="nobody here learns through"), made(at, HOW, TRAIN):
        pass


def test_nothing_that_is_not_learned_is_asked(folder: Path) -> None:
    sequences = drawn_sequences(2, 40, 384)
    sequences.targets[:, 5:] = NOT_LEARNED
    with made(folder, HOW, TRAIN) as ours:
        assert len(ours.network.losses(sequences)) == 10
    assert describe(str(folder)).part("language").family == "qwen2"


def test_blocks_as_their_file_has_them_learn_as_their_floats_do(tmp_path: Path) -> None:
    """Nothing is rounded a second time: losses and gradients are those of the dequantized weights."""
    file = write_gguf(tmp_path / "m.gguf", K_QUANT, "q4_1")
    train = Train(length=16, sequences=2, steps=1)
    given = drawn_sequences(2, 16, 200)
    found: list[tuple[float, dict[str, torch.Tensor]]] = []
    for steps in ((), (AsStored("blocks"),)):
        with made(file, replace(HOW, roles=("q", "v", "down")), train, *steps) as ours:
            grads: dict[str, torch.Tensor] = {}
            found.append((ours.network.learn(given, grads.update), grads))
    (one, floats), (other, packed) = found
    assert one == pytest.approx(other, rel=1e-6)
    for name, grad in floats.items():
        torch.testing.assert_close(packed[name], grad, rtol=1e-4, atol=1e-7)
