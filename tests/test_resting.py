"""What learns on disk: bit by bit what it is in memory, whatever the states, and what a kill leaves behind."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from learning import Made, drawn_sequences, folder_of, made
from tiny import Tiny

from pintpot.budget import Train
from pintpot.contract.training import DYNAMIC8, TrainingForm
from pintpot.errors import BadFile, DiskTooSmall
from pintpot.stream.regions import Regions
from pintpot.trainer.checkpoint import Checkpoints, Progressed
from pintpot.trainer.learned import Pace
from pintpot.trainer.places import aligned_memory, bytes_of

TRAIN = Train(length=40, sequences=3, steps=8)
HOW = TrainingForm(at_once=2, fused=True, states="f32")
TIED, UNTIED = Tiny(family="qwen2", heads=4, kv_heads=2, tied=True), Tiny(family="llama")
PACE = Pace(1e-2, weight_decay=0.1)


@pytest.fixture(autouse=True)
def small_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tiny matrices have several."""
    monkeypatch.setattr("pintpot.contract.resting.RECORD_VALUES", 4096)


def learn(one: Made, first: int, stop: int) -> list[float]:
    """Losses of some steps."""
    losses = []
    for step in range(first, stop):
        update = partial(one.learned.update, pace=PACE, step=step, steps=TRAIN.steps)
        losses.append(one.network.learn(drawn_sequences(3, 40, 384, seed=step), update))
    return losses


def values(one: Made) -> dict[str, torch.Tensor]:
    return {name: torch.cat(list(one.learned.parts(name))).clone() for name in one.learned.shapes}


@pytest.mark.parametrize("tiny", [TIED, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("how", [HOW, replace(HOW, states=DYNAMIC8), replace(HOW, computed_in="bf16")], ids=str)
def test_learning_on_disk_is_learning_in_memory(tmp_path: Path, tiny: Tiny, how: TrainingForm) -> None:
    folder, found = folder_of(tiny, tmp_path), []
    for rests in (None, tmp_path / "run" / "rests"):
        with made(folder, how, TRAIN, rests=rests) as one:
            away = one.learned.resting
            assert (away is not None) == (rests is not None)
            if away is not None:
                assert not set(away.places) & set(one.learned.values)
                assert any(-(-place.rows // place.at_once) > 2 for place in away.places.values())
            losses = learn(one, 0, 3)
            found.append((losses, values(one), one.network.losses(drawn_sequences(2, 40, 384))))
    (losses, near, asked), (others, far, asked_too) = found
    assert losses == others
    assert losses[-1] < losses[0]
    assert near.keys() == far.keys()
    assert all(torch.equal(value, far[name]) for name, value in near.items())
    assert torch.equal(asked, asked_too)


def checkpoints(at: Path) -> Checkpoints:
    return Checkpoints(at, {"seed": 0})


def test_a_checkpoint_stays_whatever_is_learned_after_it(tmp_path: Path) -> None:
    folder, at = folder_of(TIED, tmp_path), tmp_path / "run"
    with made(folder, HOW, TRAIN, rests=checkpoints(at).rests) as one:
        done = Progressed()
        for stop in (2, 4):  # the second one is in the other version
            done.losses += learn(one, done.step, stop)
            done.step = stop
            checkpoints(at).save(one.learned, done, {})
        learn(one, 4, 7)  # and is lost with the process
    assert sorted(path.name for path in (at / "checkpoint").iterdir()) == [
        "resting.bin", "state.json", "step-4.safetensors",
    ]  # fmt: skip
    with made(folder, HOW, TRAIN, rests=checkpoints(at).rests) as again:
        found = checkpoints(at).load(again.learned)
        assert (found.step, found.losses) == (4, done.losses)
        later, end = learn(again, 4, 6), values(again)
    with made(folder, HOW, TRAIN) as whole:
        assert learn(whole, 0, 6) == done.losses + later
        assert all(torch.equal(value, end[name]) for name, value in values(whole).items())


def test_a_disk_that_gets_full_is_seen_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    rests = tmp_path / "run" / "rests"
    with pytest.raises(DiskTooSmall, match=r"making room in .*rests: No space left"), \
            made(folder_of(TIED, tmp_path), HOW, TRAIN, rests=rests):  # fmt: skip
        pass


def test_what_cannot_be_written_ends_learning_with_that_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Regions.write
    count = 0

    def breaks(self: Regions, offset: int, memory: memoryview) -> None:
        nonlocal count
        count += 1
        if count > 30:
            raise BadFile("writing rests: Input/output error")
        written(self, offset, memory)

    monkeypatch.setattr(Regions, "write", breaks)
    with made(folder_of(TIED, tmp_path), HOW, TRAIN, rests=tmp_path / "run" / "rests") as one, \
            pytest.raises(BadFile, match="Input/output error"):  # fmt: skip
        learn(one, 0, 8)


def test_regions_are_read_as_they_were_written_with_and_without_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = aligned_memory(5 << 20)
    data.random_(generator=torch.Generator().manual_seed(0))
    opened = os.open

    def without(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return opened(path, flags, mode)

    for refuses in (False, True):
        if refuses:
            monkeypatch.setattr("os.open", without)
        one = Regions(tmp_path / f"{refuses}", 8 << 20)
        assert not (refuses and one.direct)
        one.write(4096, bytes_of(data))
        back = aligned_memory(4096 * 3)
        one.read(4096 * 700, bytes_of(back))
        assert torch.equal(back, data[4096 * 699 : 4096 * 702])
        one.flush()
        with pytest.raises(BadFile, match="ends at byte"):
            one.read(8 << 20, bytes_of(back))
        one.close()
