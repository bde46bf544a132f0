"""Adam's means in 8 bits: levels, errors, steps beside those of float32, bytes as planned, and when a plan has them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from learning import drawn_sequences, folder_of, made
from tiny import Tiny

from pintpot.budget import Budget, Train, Workload
from pintpot.contract.form import source_form
from pintpot.contract.training import DYNAMIC8, STATE_BLOCK, TrainingForm
from pintpot.machine.null import null_machine
from pintpot.model.read import describe
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.names import OPTIMIZER
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.training import Asked, make_training_plan
from pintpot.techniques.train.eight_bit_states import EightBitStates
from pintpot.trainer.checkpoint import Checkpoints, Progressed
from pintpot.trainer.learned import Learned, Pace
from pintpot.trainer.moments import CHUNK, decode, encode, levels

TRAIN = Train(length=40, sequences=3, steps=50)
FULL = TrainingForm(at_once=3, fused=True, states=DYNAMIC8)
BFLOAT16 = 2.0**-9
"""By so much of itself a share of a block's largest is rounded before its level is looked up."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(Tiny(family="qwen2", heads=4, kv_heads=2), tmp_path_factory.mktemp("moments"))


@pytest.mark.parametrize(("signed", "count", "least"), [(True, 255, 3.25e-6), (False, 256, 5.5e-8)])
def test_levels_rise_to_one_and_are_denser_near_zero(signed: bool, count: int, least: float) -> None:
    known = levels(signed).double()
    above = known[known > 0]
    assert (len(known), float(known[-1])) == (count, 1.0)
    assert bool((known.diff() > 0).all())
    assert float(above[0]) == pytest.approx(least)
    assert torch.equal(known, -known.flip(0)) if signed else bool((known > 0).all())
    for tens in range(5):
        inside = above[(above > 10.0 ** -(tens + 1)) & (above < 10.0**-tens)]
        assert len(inside) == (64 if signed else 128) >> tens
        assert torch.allclose(inside.diff(), inside.diff()[0].expand(len(inside) - 1), rtol=1e-3)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("count", [1, STATE_BLOCK, 5 * STATE_BLOCK + 7])
def test_no_value_is_further_off_than_half_the_way_to_the_next_level(signed: bool, count: int) -> None:
    draw = torch.Generator().manual_seed(count)
    sizes = 10 ** (-9 * torch.rand(count, generator=draw))
    values = torch.randn(count, generator=draw) * sizes
    values = values if signed else values.abs()
    codes, scales = encode(values, signed)
    assert (codes.dtype, len(scales)) == (torch.uint8, -(-count // STATE_BLOCK))
    found = decode(codes, scales, signed)
    known, scale = levels(signed).double(), scales.repeat_interleave(STATE_BLOCK)[:count].double()
    share = values.double() / scale
    off = (found.double() / scale - share).abs()
    place = torch.bucketize(share, known).clamp(1, len(known) - 1)
    half = (known[place] - known[place - 1]) / 2
    half = torch.where(share < known[0], known[0] - share, half)
    # Rounding to 16 bits may choose the farther of two levels, where both are about as far.
    assert bool((off <= half + 2 * BFLOAT16 * share.abs() + 1e-9).all())
    largest = values.abs().argmax()
    assert found[largest] == values[largest]


def test_nothing_stays_nothing_and_little_does_not_become_nothing_in_the_mean_of_squares() -> None:
    zeros = torch.zeros(STATE_BLOCK + 3)
    assert torch.equal(decode(*encode(zeros, True), True), zeros)
    assert torch.equal(decode(*encode(zeros, False), False), zeros)
    values = torch.full((STATE_BLOCK,), 1e-30)
    values[0] = 1.0
    assert bool((decode(*encode(values, False), False) > 0).all())


def test_parts_that_are_updated_apart_are_one_tensor() -> None:
    """More values than one chunk, and an end that fills no block: as the whole would be, block by block."""
    draw = torch.Generator().manual_seed(0)
    grad = torch.randn(3, CHUNK // 2 + 5, generator=draw)
    learned, exact = (Learned({"w": torch.zeros_like(grad)}, states) for states in (DYNAMIC8, "f32"))
    for one in (learned, exact):
        one.update({"w": grad}, Pace(0.1), 0, 10)
    m, scales = (learned.tensors()[name] for name in ("w.m", "w.m.scales"))
    codes, expected = encode(grad.flatten() * (1 - 0.9), True)
    assert torch.allclose(scales, expected, rtol=1e-6)
    assert float((m.flatten() != codes).float().mean()) < 1e-3
    # What the first step divides has not been rounded yet.
    assert torch.equal(learned.values["w"], exact.values["w"])


def trained(folder: Path, states: str, steps: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses, and by how much every weight has changed."""
    sequences, losses = drawn_sequences(3, 40, 384), []
    with made(folder, replace(FULL, states=states), TRAIN) as ours:
        before = {name: one.clone() for name, one in ours.learned.values.items()}
        for step in range(steps):
            update = partial(ours.learned.update, pace=Pace(1e-3), step=step, steps=steps)
            losses.append(ours.network.learn(sequences, update))
        return losses, {name: one - before[name] for name, one in ours.learned.values.items()}


def test_fifty_steps_are_near_those_of_float32(folder: Path) -> None:
    """Levels are 1% to 10% apart over most of a block, and their errors are of either sign, so changes stay near.

    Least near are those of the head: of the rows of words that never come, gradients are small beside their block's
    largest. The loss falls to a hundredth, and is compared at every step.
    """
    (exact, wanted), (coded, found) = trained(folder, "f32", 50), trained(folder, DYNAMIC8, 50)
    assert exact[-1] < 0.5 * exact[0]
    assert coded[0] == exact[0]
    for one, other in zip(coded, exact, strict=True):
        assert one == pytest.approx(other, rel=0.04)
    for name, change in wanted.items():
        assert float((found[name] - change).norm() / change.norm()) < 0.15, name
    assert coded != exact


def planned(folder: Path, memory: int, **asked: Any) -> Plan:
    budget = Budget(memory, Workload(task="train", train=TRAIN))
    question = Question(describe(str(folder)), null_machine(), budget, shipped_priors(), torch_bytes=300_000_000)
    return make_training_plan(question, Asked(**{"arithmetic": "float32", **asked}))


def held(plan: Plan, name: str = OPTIMIZER) -> int:
    return next(one.high for one in plan.cost.holders if one.name == name)


def test_a_plan_has_them_where_float32_does_not_fit_and_they_weigh_what_it_says(folder: Path) -> None:
    roomy = planned(folder, 2_000_000_000, method="full")
    assert "AdamW()" in map(str, roomy.steps)
    lost = next(one for one in roomy.rejected if one.what == "EightBitStates()")
    assert "times as long" in lost.reason
    tight = planned(folder, roomy.cost.memory_high - 1, method="full")
    assert EightBitStates() in tight.steps
    assert Plan.from_json(tight.to_json()) == tight
    assert held(tight) < 0.27 * held(roomy)
    for plan in (roomy, tight):
        how = plan.form.training
        assert how is not None
        with made(folder, how, TRAIN) as ours:
            tensors = ours.learned.tensors()
            kept = sum(
                one.numel() * one.element_size() for name, one in tensors.items() if name not in ours.learned.values
            )
        assert kept <= held(plan) <= kept + 64 * len(tensors)


def test_a_checkpoint_holds_codes_and_the_next_losses_are_the_same_bits(folder: Path, tmp_path: Path) -> None:
    sequences, found = drawn_sequences(3, 40, 384), []
    checkpoints = Checkpoints(tmp_path, {"of": "this"})
    for stopped in (False, True):
        with made(folder, FULL, TRAIN) as ours:
            done = checkpoints.load(ours.learned) if stopped else Progressed()
            for step in range(done.step, 6):
                update = partial(ours.learned.update, pace=Pace(1e-3), step=step, steps=6)
                done.losses.append(ours.network.learn(sequences, update))
                done.step += 1
                if step == 2 and not stopped:
                    checkpoints.save(ours.learned, done, {})
            found.append((done.losses, {name: one.clone() for name, one in ours.learned.tensors().items()}))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(one, found[1][1][name]) for name, one in found[0][1].items())
    assert found[0][1]["layers.0.q.m"].dtype == torch.uint8
    assert found[0][1]["layers.0.attn_norm.m"].dtype == torch.float32


def test_it_applies_where_something_learns(folder: Path) -> None:
    form = source_form(describe(str(folder)))
    assert EightBitStates().promise(form) == form
    assert EightBitStates().promise(replace(form, training=FULL)).training == FULL
