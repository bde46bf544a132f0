"""Programs with other ops over the same buffers and more: what techniques that rewrite work have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from pintpot.program.spec import Buffer, Buffers, Op, Program, Segment, Stage, Table, Work


def with_ops(program: Program, ops: Iterable[Op], fresh: Iterable[Buffer], behind: int) -> Program:
    """A program with other ops, and buffers beside its own; those from op `behind` on have moved, no others."""
    table = Table(ops)
    longer = len(table) - len(program.ops)
    segments = tuple(
        Segment(s.first + longer * (s.first > behind), s.stop + longer * (s.stop > behind), s.slot)
        for s in program.segments
    )
    return replace(program, buffers=Buffers.join(*_parts(program), Buffers(fresh)), ops=table, segments=segments)


def rewritten(work: Work, change: Callable[[Program], Program | None]) -> Work | None:
    """Work with every program changed that `change` gives another for; None where it is none of them.

    What is changed has no weights, so that forms of one model share what is found out. A changed program has the same
    buffers and more.
    """
    stages, changed = list[Stage](), False
    for stage in work.stages:
        programs = []
        for program in stage.programs:
            parts = _parts(program)
            weights = [part for part in parts if part and all(buffer.life == "pack" for buffer in part)]
            rest = [part for part in parts if all(part is not one for one in weights)]
            done = change(replace(program, buffers=Buffers.join(*rest)))
            whole = done and replace(done, buffers=Buffers.join(*weights, *_parts(done)))
            programs.append(whole or program)
            changed = changed or whole is not None
        stages.append(replace(stage, programs=tuple(programs)))
    return Work(tuple(stages)) if changed else None


def _parts(program: Program) -> tuple[Buffers, ...]:
    buffers = program.buffers if isinstance(program.buffers, Buffers) else Buffers(program.buffers)
    return buffers.parts or (buffers,)
