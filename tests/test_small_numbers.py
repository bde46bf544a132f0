"""Small numbers are flushed while a model learns, and nothing of that is left in the process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import Tiny, write_hf

import pintpot
from pintpot.trainer.loop import Event

SMALL, MANY = 1e-39, 1 << 22
"""Of float32 a denormal; and so many of them that all threads share the work."""


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def lost() -> int:
    """How many of many small numbers are zero after being halved."""
    return int(((torch.full((MANY,), SMALL) * 0.5) == 0).sum())


def test_they_are_kept_before_and_after_and_not_between(tmp_path: Path, two_threads: None) -> None:
    write_hf(tmp_path / "m", Tiny())
    (tmp_path / "d.jsonl").write_text("".join(f"{json.dumps({'text': f'{n} and {n} more ' * 9})}\n" for n in range(40)))
    seen = []

    def happened(event: Event) -> None:
        seen.append(lost())

    assert lost() == 0
    short = {"length": 32, "steps": 2, "threads": 2, "happened": happened}
    pintpot.tune(tmp_path / "m", tmp_path / "d.jsonl", output=tmp_path / "out", **short)
    assert seen
    assert set(seen) == {MANY}
    assert lost() == 0


def test_a_failure_leaves_nothing_of_it(tmp_path: Path, two_threads: None) -> None:
    write_hf(tmp_path / "m", Tiny())
    (tmp_path / "d.jsonl").write_text("".join(f"{json.dumps({'text': f'{n} and {n} more ' * 9})}\n" for n in range(40)))

    class Enough(Exception):
        """Whoever watches has seen enough."""

    def happened(event: Event) -> None:
        raise Enough

    with pytest.raises(Enough):
        pintpot.tune(
            tmp_path / "m", tmp_path / "d.jsonl", output=tmp_path / "out", length=32, steps=2, happened=happened
        )
    assert lost() == 0
