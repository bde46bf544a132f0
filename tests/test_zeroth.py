"""Steps without gradients: slopes as others compute them, weights that come back, restarts, plans, falling losses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning import Adapted, Made, drawn_sequences, folder_of, made
from test_moments import planned
from tiny import Tiny, torch_model, write_hf

import pintpot
from pintpot.budget import Train
from pintpot.contract.training import TrainingForm
from pintpot.errors import Diverged, DoesNotFit
from pintpot.model.names import hf_name
from pintpot.planner.training import training_work_of
from pintpot.techniques.train.zeroth_order import ZerothOrder
from pintpot.trainer.learned import Pace
from pintpot.trainer.loop import Task
from pintpot.trainer.moments import CHUNK
from pintpot.trainer.packing import Order, Sequences
from pintpot.trainer.tune import Settings
from pintpot.trainer.zeroth import following, move, seed_of, slope

TRAIN = Train(length=40, sequences=3, steps=4)
DISTANCE = 1e-3
EVERY = TrainingForm(at_once=2, distance=DISTANCE)
BESIDE = replace(EVERY, rank=4, alpha=8.0, roles=("q", "v", "down"))
TINY = Tiny(family="qwen2", heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(TINY, tmp_path_factory.mktemp("zeroth"))


def copies(ours: Made) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in ours.learned.values.items()}


def drawn(ours: Made, seed: int, step: int) -> dict[str, torch.Tensor]:
    """The direction of a step, drawn all at once as nobody does while learning; no tensor here fills a chunk."""
    found = {}
    for number, (name, value) in enumerate(ours.learned.values.items()):
        assert value.numel() <= CHUNK
        draw = torch.Generator().manual_seed(seed_of(seed, step, number))
        found[name] = torch.randn(value.numel(), generator=draw).view(value.shape)
    return found


def test_the_slope_is_that_of_transformers_losses_on_either_side(folder: Path) -> None:
    """Losses near 6 in float32 are known to 1e-6 or so; over two distances, 1e-3 of a slope of about 1."""
    sequences = drawn_sequences(3, 40, TINY.vocab)
    with made(folder, EVERY, TRAIN) as ours:
        direction = drawn(ours, seed=3, step=7)
        loss, steep = slope(ours.network, ours.learned, sequences, (3, 7, DISTANCE))
    model, sides = torch_model(folder), []
    for sign in (1, -1):
        with torch.no_grad():
            for name, way in direction.items():
                model.get_parameter(hf_name(name, TINY.family)).add_(sign * DISTANCE * way)
            ids = torch.from_numpy(sequences.tokens).long()
            logits = model(ids).logits[:, :-1].flatten(0, 1).double()
            sides.append(torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).item())
            for name, way in direction.items():
                model.get_parameter(hf_name(name, TINY.family)).sub_(sign * DISTANCE * way)
    assert loss == pytest.approx(sum(sides) / 2, rel=1e-5)
    assert steep == pytest.approx((sides[0] - sides[1]) / (2 * DISTANCE), abs=5e-3)
    assert abs(steep) > 0.05


@pytest.mark.parametrize("how", [EVERY, BESIDE], ids=["every weight", "adapters"])
def test_the_slope_is_the_gradient_along_the_direction(folder: Path, how: TrainingForm) -> None:
    sequences = drawn_sequences(3, 40, TINY.vocab)
    with made(folder, replace(how, distance=0.0, states="f32"), TRAIN) as exact, made(folder, how, TRAIN) as ours:
        grads: dict[str, torch.Tensor] = {}
        exact.network.learn(sequences, grads.update)
        direction = drawn(ours, seed=0, step=0)
        wanted = sum(float((grads[name] * way).sum()) for name, way in direction.items())
        _, steep = slope(ours.network, ours.learned, sequences, (0, 0, DISTANCE))
    assert steep == pytest.approx(wanted, rel=0.02, abs=0.01)


def test_a_step_is_the_slope_times_the_rate_along_the_direction(folder: Path) -> None:
    sequences = drawn_sequences(3, 40, TINY.vocab)
    with made(folder, EVERY, TRAIN) as ours:
        before, direction = copies(ours), drawn(ours, seed=1, step=2)
        _, steep = slope(ours.network, ours.learned, sequences, (1, 2, DISTANCE))
        move(ours.learned, 1, 2, DISTANCE)
        following(ours.network, ours.learned, task(sequences, 0.01), 1, DISTANCE)(sequences, 2)
        for name, value in ours.learned.values.items():
            assert torch.allclose(value, before[name] - 0.01 * steep * direction[name], atol=2e-4), name


def test_a_thousand_moves_leave_weights_where_they_were(folder: Path) -> None:
    """Each move is rounded once, to either side: that adds up to some dozen units in the last place of a weight."""
    with made(folder, EVERY, TRAIN) as ours:
        before = copies(ours)
        for step in range(333):
            for by in (DISTANCE, -2 * DISTANCE, DISTANCE):
                move(ours.learned, 0, step, by)
        for name, value in ours.learned.values.items():
            assert float((value - before[name]).abs().max()) < 150 * 2**-24 * max(1.0, float(before[name].abs().max()))


def test_matrices_decay_and_large_tensors_are_drawn_in_parts() -> None:
    from pintpot.trainer.learned import Learned

    learned = Learned({"w": torch.ones(2, CHUNK), "b": torch.ones(5)}, "")
    move(learned, 0, 0, 0.0, decay=0.5)
    assert bool((learned.values["w"] == 0.5).all())
    assert bool((learned.values["b"] == 1.0).all())
    move(learned, 0, 0, 1.0)
    moved = learned.values["w"].flatten() - 0.5
    assert float(moved.mean()) == pytest.approx(0.0, abs=0.01)
    assert float(moved.std()) == pytest.approx(1.0, abs=0.01)
    assert not torch.equal(moved[:CHUNK], moved[CHUNK:])
    assert learned.tensors().keys() == {"w", "b"}
    assert len({seed_of(a, b, c) for a in range(5) for b in range(50) for c in range(50)}) == 12_500


def task(sequences: Sequences, rate: float, steps: int = 4) -> Task:
    return Task(replace(TRAIN, steps=steps), Pace(rate), sequences, sequences, Order(3, 3, 0))


def test_the_loss_of_a_few_examples_falls(folder: Path) -> None:
    sequences = drawn_sequences(3, 40, TINY.vocab)
    with made(folder, EVERY, TRAIN) as ours:
        take = following(ours.network, ours.learned, task(sequences, 1e-3, 150), 0, DISTANCE)
        losses = [take(sequences, step) for step in range(150)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.1


def test_a_loss_that_is_no_number_ends_it(folder: Path) -> None:
    with made(folder, EVERY, TRAIN) as ours:
        ours.learned.values["norm"][0] = float("nan")
        with pytest.raises(Diverged, match="the losses on either side are nan"):
            slope(ours.network, ours.learned, drawn_sequences(3, 40, TINY.vocab), (0, 0, DISTANCE))


def test_plans_hold_what_answering_holds(folder: Path) -> None:
    plan = planned(folder, 2_000_000_000, method="zeroth")
    assert [step.name for step in plan.steps] == ["EveryWeight", "ZerothOrder", "Offloaded"]
    sizes = {one.name: one.high for one in plan.cost.holders}
    assert sizes["gradients"] == sizes["optimizer states"] == 0
    assert sizes["kept activations"] < 2 * 4 * 120 * TINY.hidden
    stages = [stage.name for stage in training_work_of(plan).stages]
    assert stages == ["forward", "loss", "forward again", "loss again", "update", "ask"]
    full = planned(folder, 2_000_000_000, method="full")
    assert plan.smallest_bytes < full.smallest_bytes
    assert "zeroth" not in json.dumps(planned(folder, 2_000_000_000).to_json())


def test_where_nothing_else_fits_it_is_advised_and_not_chosen(folder: Path) -> None:
    least = {method: planned(folder, 2_000_000_000, method=method).smallest_bytes for method in ("auto", "zeroth")}
    assert least["zeroth"] < least["auto"]
    with pytest.raises(DoesNotFit, match=r"--method zeroth fits.*far more steps"):
        planned(folder, least["auto"] - 1)
    assert ZerothOrder.__name__ in [step.name for step in planned(folder, least["zeroth"], method="zeroth").steps]
    with pytest.raises(DoesNotFit) as raised:
        planned(folder, least["zeroth"] - 1)
    assert "zeroth" not in str(raised.value)


class Enough(Exception):
    """Whoever watches has seen enough."""


def tuned(at: Path, out: str, stop_after: int | None = None) -> pintpot.Tuned:
    def watch(event: Any) -> None:
        if event.step == stop_after:
            raise Enough

    return pintpot.tune(
        at / "m", at / "d.jsonl", output=at / out, method="zeroth", length=48, steps=6, threads=1, happened=watch,
        settings=Settings(learning_rate=1e-4, checkpoint=2), arithmetic="float32",
    )  # fmt: skip


def texts() -> Iterator[str]:
    return (json.dumps({"text": f"{n} and one is {n + 1}, which is more than {n}."}) + "\n" for n in range(60))


def test_a_start_that_was_ended_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    write_hf(tmp_path / "m", replace(TINY, tied=True))
    (tmp_path / "d.jsonl").write_text("".join(texts()))
    whole = tuned(tmp_path, "whole")
    with pytest.raises(Enough):
        tuned(tmp_path, "halved", stop_after=5)
    halved = tuned(tmp_path, "halved")
    assert halved.began_at == 4
    assert halved.losses == whole.losses
    assert halved.asked == whole.asked
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "halved"))
    assert one == other


def test_adapters_are_used_beside_the_same_losses(folder: Path) -> None:
    with made(folder, BESIDE, TRAIN) as ours:
        sequences = drawn_sequences(3, 40, TINY.vocab)
        theirs = Adapted.of(folder, ours).losses(sequences)
        assert torch.allclose(ours.network.losses(sequences), theirs, atol=3e-5)
