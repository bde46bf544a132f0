"""What is asked of a run of learning: its budget, and all that has to be the same for a later start to go on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.budget import DEFAULT_MEMORY_SHARE, Budget, Train, Workload
from pintpot.errors import DoesNotFit, need
from pintpot.trainer.ranks import Ranks, started_together
from pintpot.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from pintpot.contract.step import Step
    from pintpot.model.spec import Model
    from pintpot.planner.training import Asked
    from pintpot.trainer.tune import Settings


def budget_of(memory: str | int | None, threads: int | None, train: Train, chosen: Mapping[str, Any]) -> Budget:
    """What was asked of memory and threads, a share of what is free where nothing was. Raises DoesNotFit."""
    from pintpot.meter.memory import attainable_bytes

    here = started_together()[2]
    num_bytes = memory_within(memory, attainable_bytes() // here, "that are free here; ask for less")
    keys = [key for key, value in chosen.items() if value is not None]
    keys += ["memory_bytes"] * (memory is not None) + ["threads"] * (threads is not None)
    workload = Workload(task="train", train=train)
    if threads is None and here > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // here)
    return Budget(num_bytes, workload, threads=threads, chosen=tuple(sorted(keys)))


def memory_within(memory: str | int | None, room: int, where: str) -> int:
    """The bytes that were asked for, the usual share of `room` where none were. Raises DoesNotFit for more."""
    num_bytes = int(room * DEFAULT_MEMORY_SHARE) if memory is None else parse_bytes(memory)
    over = f"a budget of {format_bytes(num_bytes)} is more than the {format_bytes(room)} {where}"
    need(num_bytes <= room, over, DoesNotFit)
    return num_bytes


def asked_of(
    named: tuple[str, str, str], adapters: Step, data_bytes: int, settings: Settings, ranks: Ranks, folder: Path
) -> Asked:
    """What is asked beside the budget: `named` are the method, the arithmetic and the part that learns."""
    from pintpot.meter.disk import free_bytes
    from pintpot.planner.training import Asked
    from pintpot.trainer.checkpoint import kept_bytes
    from pintpot.trainer.tune import steps_beside

    method, arithmetic, learn = named
    return Asked(
        method, arithmetic, adapters, data_bytes, learn, steps_beside(settings), ranks.count, settings.bits,
        activations=settings.activations, room_bytes=free_bytes(folder) + kept_bytes(folder),
    )  # fmt: skip


def question_of(
    model: Model,
    data: Path,
    asks: Asked,
    budget: tuple[str | int | None, int | None],
    train: Train,
    settings: Settings,
    ranks: Ranks,
) -> dict[str, Any]:
    """The model, its data and whatever decides about losses; `budget` is memory and threads as they were asked for."""
    return {
        "model": model.digest, "data": _digest(data), "method": asks.method, "arithmetic": asks.arithmetic,
        "adapters": asks.adapters.to_json(), "learn": asks.learn, "memory": budget[0], "threads": budget[1],
        **asdict(train), "processes": ranks.count,
        **{key: value for key, value in asdict(settings).items() if key != "checkpoint"},
    }  # fmt: skip


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
