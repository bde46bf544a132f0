"""`pipeline`: diffusers' own pipelines, whose networks are planned, packed and opened by the verbs of `pintpot.api`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pintpot.api import Progress, describe, keep, open_pack, plan
from pintpot.units import parse_bytes

if TYPE_CHECKING:
    from pintpot.planner.plan import Plan
    from pintpot.runtime.module import ModuleSession


def pipeline(
    folder: str | Path,
    *,
    memory: str | int | None = None,
    degradation: float | None = None,
    prefer: Literal["speed", "quality", "memory"] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    **components: Any,
) -> Any:
    """diffusers' own pipeline over its folder or hub id, with a stage of ours in the place of each network.

    Its own `__call__` drives. A stage is recorded for the shapes of its first call, planned, packed and kept, opened
    when it is called, and leaves memory where the next would not fit beside it: `memory` is that of this process, 80%
    of what is free by default. `degradation`, `prefer` and `threads` are those of each stage's plan, `components` of
    the caller's own. `.promise(**call)` tells what a call would take, `.keeper.receipt()` what calls took,
    `.keeper.close()` gives memory back.

    Raises UsageError where diffusers is not installed, BadInput, UnsupportedModel for code of the folder, DoesNotFit.
    """
    from pintpot.budget import DEFAULT_MEMORY_SHARE
    from pintpot.machine.process import module_process_bytes
    from pintpot.meter.memory import attainable_bytes
    from pintpot.runtime.pipelines.keeper import Makers
    from pintpot.runtime.pipelines.pipeline import open_pipeline

    asked: dict[str, Any] = {"degradation": degradation, "prefer": prefer, "threads": threads}

    def planned(recording: Path, num_bytes: int) -> Plan:
        return plan(describe(recording), memory=num_bytes, progress=progress, **asked)

    def packed(recording: Path, made: Plan, num_bytes: int) -> Path:
        from pintpot.packer.place import found_asked, place_asked

        described, question = describe(recording), {"memory": num_bytes, **asked}
        known = found_asked(described, question)
        return known or keep(described, made, place_asked(described, question), progress)

    room = int(attainable_bytes() * DEFAULT_MEMORY_SHARE) if memory is None else parse_bytes(memory)
    makers = Makers(planned, packed, lambda place: cast("ModuleSession", open_pack(place, threads, progress)))
    return open_pipeline(folder, room, makers, module_process_bytes(), **components)
