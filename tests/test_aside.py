"""Insides of blocks on disk: the same bits as in memory, in bounded memory, and nothing stays behind."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from dataclasses import replace
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from learning import HOW, drawn_sequences, folder_of, made
from test_tune import COMMAND, SHORT, place, tuned
from tiny import Tiny

from pintpot.budget import Budget, Train, Workload
from pintpot.contract.training import AGAIN, STAYS, WRITTEN, TrainingForm
from pintpot.errors import BadFile, DiskTooSmall, UsageError
from pintpot.machine.null import null_machine
from pintpot.machine.spec import Machine
from pintpot.model.read import describe
from pintpot.nets._moving import ASIDE
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.training import Asked, make_training_plan
from pintpot.stream.regions import Regions
from pintpot.trainer.aside import Aside
from pintpot.trainer.inside import Inside
from pintpot.trainer.learned import Pace
from pintpot.trainer.tune import Settings, Tuned

__all__ = ["place"]

TRAIN = Train(length=40, sequences=3, steps=4)
EVERY = TrainingForm(at_once=2, fused=True, states="f32")
ADAPTERS = replace(HOW, states="f32")
TINY = Tiny(family="qwen2", heads=4, kv_heads=2, layers=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(TINY, tmp_path_factory.mktemp("aside"))


def learned(
    folder: Path, how: TrainingForm, aside: Path, rests: Path | None
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of some steps, and what was learned."""
    losses = []
    with made(folder, how, TRAIN, aside=aside, rests=rests) as one:
        for step in range(3):
            update = partial(one.learned.update, pace=Pace(1e-2, weight_decay=0.1), step=step, steps=TRAIN.steps)
            sequences = drawn_sequences(3, 40, TINY.vocab, seed=step)
            if how.fused:
                losses.append(one.network.learn(sequences, update))
            else:
                grads: dict[str, torch.Tensor] = {}
                losses.append(one.network.learn(sequences, grads.update))
                update(grads)
        assert not aside.exists()
        return losses, {name: torch.cat(list(one.learned.parts(name))).clone() for name in one.learned.shapes}


@pytest.mark.parametrize(
    ("how", "rests"),
    [
        (ADAPTERS, False),
        (replace(ADAPTERS, computed_in="bf16"), False),
        *product((EVERY, replace(EVERY, at_once=3)), (False, True)),
    ],
    ids=str,
)
def test_what_is_written_changes_no_bit(folder: Path, tmp_path: Path, how: TrainingForm, rests: bool) -> None:
    found = []
    for number, (stays, written) in enumerate([(5, 0), (0, 5), (1, 2), (0, 1)]):
        on_disk = tmp_path / str(number) / "rests" if rests else None
        way = replace(how, stays=stays, written=written)
        found.append(learned(folder, way, tmp_path / str(number) / "aside", on_disk))
    for losses, values in found[1:]:
        assert losses == found[0][0]
        assert all(torch.equal(value, found[0][1][name]) for name, value in values.items())


def test_what_is_written_lies_evenly_before_what_stays() -> None:
    assert TrainingForm(stays=2, written=2).fates(8) == (AGAIN, AGAIN, WRITTEN, AGAIN, AGAIN, WRITTEN, STAYS, STAYS)
    assert TrainingForm(stays=1, written=9).fates(3) == (WRITTEN, WRITTEN, STAYS)
    assert TrainingForm(written=1).fates(0) == ()


def test_of_insides_as_many_are_in_memory_as_was_promised(folder: Path, tmp_path: Path) -> None:
    """Whatever the disk is like: here it is slower than what is computed."""
    most, held = [0], dict[int, int]()
    with made(folder, replace(ADAPTERS, written=5), TRAIN, aside=tmp_path / "aside") as one:
        work = one.network.work.stage("forward").programs[0]
        (room,) = [prod(work.shape(buffer.name)) for buffer in work.buffers if buffer.name == ASIDE]
        with pytest.MonkeyPatch.context() as patch:
            write, rest, put = Regions.write, Inside.rest, Aside.put

            def slow(regions: Regions, offset: int, memory: memoryview) -> None:
                time.sleep(0.01)
                write(regions, offset, memory)

            def resting(inside: Inside[Any]) -> torch.Tensor:
                out = rest(inside)
                held[id(inside)] = sum(tensor.nbytes for tensor in inside.tensors)
                most[0] = max(most[0], sum(held.values()))
                return out

            def away(aside: Aside, inside: Inside[Any]) -> None:
                put(aside, inside)
                assert not inside.tensors
                assert held.pop(id(inside)) <= room // 2

            patch.setattr(Regions, "write", slow)
            patch.setattr(Inside, "rest", resting)
            patch.setattr(Aside, "put", away)
            one.network.learn(drawn_sequences(3, 40, TINY.vocab), {}.update)
    # Beside that memory one is there until it is copied.
    assert 0 < most[0] <= room // 2


def test_what_the_disk_refuses_ends_the_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(regions: Regions, offset: int, memory: memoryview) -> None:
        raise BadFile("the disk is gone")

    with made(folder, replace(ADAPTERS, written=5), TRAIN, aside=tmp_path / "aside") as one:
        monkeypatch.setattr(Regions, "write", refused)
        with pytest.raises(BadFile, match="the disk is gone"):
            one.network.learn(drawn_sequences(3, 40, TINY.vocab), {}.update)


def slow_products(machine: Machine, factor: float) -> Machine:
    rates = (replace(rate, **{key: getattr(rate, key) * factor for key in ("low", "mid", "high")})
             if "disk" not in rate.what else rate for rate in machine.rates)  # fmt: skip
    return replace(machine, rates=tuple(rates))


def planned(folder: Path, machine: Machine, memory: int = 1 << 32, **asked: Any) -> Plan:
    budget = Budget(memory, Workload(task="train", train=replace(TRAIN, length=64, sequences=4)))
    question = Question(describe(str(folder)), machine, budget, shipped_priors(), torch_bytes=200_000_000)
    return make_training_plan(question, Asked("lora", "float32", **asked))


def written_in(plan: Plan) -> int:
    return plan.form.training.written if plan.form.training else 0


def test_insides_are_written_where_that_is_faster_alone(folder: Path) -> None:
    quick = slow_products(null_machine(disk_bw=2e10), 0.01)
    kept, least = planned(folder, quick, activations="kept"), planned(folder, quick, activations="recomputed")
    assert planned(folder, quick).steps == kept.steps
    memory = (kept.cost.memory_high + least.cost.memory_high) // 2
    found = planned(folder, quick, memory)
    holders = {one.name: one.high for one in found.cost.holders}
    assert written_in(found) > 0 < holders[ASIDE]
    assert found.cost.memory_high <= memory
    assert found.cost.pack_bytes > least.cost.pack_bytes
    read, written = found.cost.step_disk_bytes
    assert read == written > 0 == found.cost.stage("ask").written_bytes
    assert found.cost.step_s.mid < planned(folder, quick, memory, activations="recomputed").cost.step_s.mid
    slow = planned(folder, slow_products(null_machine(disk_bw=1e5), 100.0), memory)
    assert written_in(slow) == 0
    reasons = [one.reason for one in slow.rejected if one.what.startswith("SsdTrain")]
    assert any(re.search(r"times as long: the disk takes .* a step, and what that saves", one) for one in reasons)
    # Where the disk has no room, memory decides as ever, and the reason is told.
    full = planned(folder, quick, memory, room_bytes=least.cost.pack_bytes)
    assert written_in(full) == 0
    assert any("of disk, and" in one.reason for one in full.rejected)


def test_what_is_asked_for_is_what_is_planned(folder: Path) -> None:
    machine = null_machine()
    assert written_in(planned(folder, machine, activations="written")) == TINY.layers
    for way in ("kept", "recomputed"):
        assert written_in(planned(folder, machine, activations=way)) == 0
    with pytest.raises(UsageError, match="activations are"):
        Asked(activations="lost")
    with pytest.raises(UsageError, match="without gradients there is no way back"):
        Asked("zeroth", activations="kept")


@pytest.fixture(scope="module")
def whole(place: Path) -> Tuned:
    """A run that writes nothing."""
    return tuned(place, "kept", settings=Settings(activations="kept"))


def test_a_full_disk_is_seen_before_anything_is_learned(
    place: Path, whole: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pintpot.meter.disk.free_bytes", lambda path: whole.plan.cost.pack_bytes + 1000)
    with pytest.raises(DiskTooSmall, match=r"needs [\d.]+ .B and its disk has"):
        tuned(place, "full", settings=Settings(activations="written"))
    assert not (place / "full").exists()


def test_a_run_that_is_killed_leaves_nothing_that_the_next_one_does_not_remove(place: Path, whole: Tuned) -> None:
    out = place / "killed"
    command = [*COMMAND, str(place / "m"), str(place / "d.jsonl"), "-o", str(out), *SHORT, "--checkpoint", "2"]
    killed = subprocess.Popen([*command, "--activations", "written"], stdout=subprocess.DEVNULL)
    while not (out / "checkpoint" / "state.json").exists():
        assert killed.poll() is None
        time.sleep(0.0005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list(out.glob("checkpoint/inside*"))
    (out / "checkpoint" / "inside.bin").write_bytes(b"what a kill between two calls would leave")
    again = tuned(place, "killed", settings=Settings(activations="written", checkpoint=2))
    assert not (out / "checkpoint").exists()
    assert again.losses == whole.losses
    one, other = ((place / name / "adapter_model.safetensors").read_bytes() for name in ("killed", "kept"))
    assert one == other
