"""Rows whose logits are wanted, selected as early as can be: behind the last attention only they are computed.

After the last block's attention every op works on each token for itself, and of a prompt only the last token's row is
asked for. So o, gate, up and down of that block are multiplied for few rows; in replays that want no logits they are
neither multiplied nor, where they rest on disk, read.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from pintpot.program.spec import Buffer, Buffers, Op, Program, Segment, Stage, Table, Work

_BY_ROW = ("linear", "route", "experts")
"""Ops whose every row of output depends on the same row of their input, and on weights."""


def select_early(work: Work) -> Work:
    """The same work with each select moved before the row-wise ops that lead to it; values do not change by a bit."""
    stages = tuple(Stage(s.name, s.part, tuple(map(_early, s.programs)), s.extents) for s in work.stages)
    return Work(stages, work.key)


def _early(program: Program) -> Program:
    first, at = _leading(program.ops)
    if first == at:
        return program
    ops, buffers = _moved(program.ops, program.buffers, first, at)
    longer = len(ops) - len(program.ops)
    segments = tuple(
        Segment(s.first + (longer if s.first > first else 0), s.stop + (longer if s.stop > first else 0), s.slot)
        for s in program.segments
    )
    return Program(program.name, program.bounds, buffers, ops, segments)


@lru_cache(maxsize=64)
def _leading(ops: Table[Op]) -> tuple[int, int]:
    """The first of the row-wise ops that lead to the select, and the select; equal where there are none."""
    at = next((index for index, op in enumerate(ops) if op.kind == "select"), 0)
    first = at
    while first and ops[first - 1].kind in _BY_ROW:
        first -= 1
    return first, at


@lru_cache(maxsize=512)
def _moved(ops: Table[Op], buffers: Buffers, first: int, at: int) -> tuple[Table[Op], Buffers]:
    """Ops and buffers with the select of index `at` before op `first`."""
    by_name = buffers.by_name
    suffix, last = ops[first:at], ops[at]
    written = tuple(dict.fromkeys(name for op in suffix for _, name in op.writes))
    needed = [name for op in suffix for _, name in op.reads if name not in written]
    narrow = tuple([name for name in dict.fromkeys(needed) if by_name[name].shape[0] == "tokens"])
    parts = [_changed(part, written, str(last.write("out"))) for part in buffers.parts or (buffers,)]
    fresh = _fresh(tuple([by_name[name] for name in narrow]))
    return _moved_ops(ops, first, at, narrow), Buffers.join(*parts, fresh)


# What follows is one object for all programs that share what it is made of, for others know what they found out of it.


@lru_cache(maxsize=64)
def _moved_ops(ops: Table[Op], first: int, at: int, narrow: tuple[str, ...]) -> Table[Op]:
    """Ops with the select of index `at` before op `first`, from where on `narrow` are read by rows."""
    names, last = {name: _of_rows(name) for name in narrow}, ops[at]
    selects = [Op("select", (("x", name),), (("out", of_rows),)) for name, of_rows in names.items()]
    names[str(last.write("out"))] = str(last.read("x"))
    behind = [replace(op, reads=tuple((role, names.get(name, name)) for role, name in op.reads)) for op in ops[first:]]
    del behind[at - first]
    return Table((*ops[:first], *selects, *behind))


@lru_cache(maxsize=64)
def _changed(part: Buffers, written: tuple[str, ...], gone: str) -> Buffers:
    """A table with rows in what is written; one that keeps all its buffers stays what it is."""
    if part.by_name.keys().isdisjoint(written):
        return part
    return Buffers(_by_row(b.name, b) if b.name in written else b for b in part if b.name != gone)


@lru_cache(maxsize=64)
def _fresh(narrow: tuple[Buffer, ...]) -> Buffers:
    return Buffers(_by_row(_of_rows(buffer.name), buffer) for buffer in narrow)


def _of_rows(name: str) -> str:
    return f"{name}.rows"


def _by_row(name: str, buffer: Buffer) -> Buffer:
    return replace(buffer, name=name, shape=("rows", *buffer.shape[1:]))
