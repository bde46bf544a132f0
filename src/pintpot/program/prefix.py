"""A part of a model among others: its stages, and all that they call their own, under names of their own."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Final

from pintpot.program.spec import Buffers, Op, Program, Stage, Table, Work

ONCE: Final = "once."
"""How names of a module's matrices begin that no stage needs but those which a request runs once, beside others."""


def under(work: Work, prefix: str) -> Work:
    """The same work with a prefix before the name of every stage, program and buffer."""
    if not prefix:
        return work
    stages = tuple(
        Stage(prefix + s.name, prefix.rstrip("."), tuple(_program(p, prefix) for p in s.programs), s.extents)
        for s in work.stages
    )
    return Work(stages, None if work.key is None else (prefix, work.key))


def _program(program: Program, prefix: str) -> Program:
    tables = program.buffers.parts if isinstance(program.buffers, Buffers) else ()
    parts = [_buffers(part, prefix) for part in tables or (Buffers(program.buffers),)]
    name, ops = prefix + program.name, _ops(Table(program.ops), prefix)
    return Program(name, program.bounds, Buffers.join(*parts), ops, program.segments)


# What others find out about a table they know it by, so that the same one comes out each time.


@lru_cache(maxsize=64)
def _buffers(part: Buffers, prefix: str) -> Buffers:
    return Buffers(replace(buffer, name=prefix + buffer.name) for buffer in part)


@lru_cache(maxsize=64)
def _ops(ops: Table[Op], prefix: str) -> Table[Op]:
    return Table(
        replace(
            op,
            reads=tuple((role, prefix + name) for role, name in op.reads),
            writes=tuple((role, prefix + name) for role, name in op.writes),
        )
        for op in ops
    )
