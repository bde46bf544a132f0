"""Rows whose logits are wanted, selected as early as can be: behind the last attention only they are computed.

After the last block's attention every op works on each token for itself, and of a prompt only the last token's row is
asked for. So o, gate, up and down of that block are multiplied for few rows; in replays that want no logits they are
neither multiplied nor, where they rest on disk, read.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from pintpot.program.spec import Buffer, Buffers, Op, Program, Segment, Stage, Table, Work

_BY_ROW = ("linear",)
"""Ops whose every row of output depends on the same row of their input, and on weights."""


def select_early(work: Work) -> Work:
    """The same work with each select moved before the row-wise ops that lead to it; values do not change by a bit."""
    stages = tuple(Stage(s.name, s.part, tuple(map(_early, s.programs)), s.repeats) for s in work.stages)
    return Work(stages, work.key)


def _early(program: Program) -> Program:
    at = next((index for index, op in enumerate(program.ops) if op.kind == "select"), 0)
    first = at
    while first and program.ops[first - 1].kind in _BY_ROW:
        first -= 1
    if first == at:
        return program
    ops, buffers = _moved(program.ops, program.buffers, first, at)
    longer = len(ops) - len(program.ops)
    segments = tuple(
        Segment(s.first + (longer if s.first > first else 0), s.stop + (longer if s.stop > first else 0), s.slot)
        for s in program.segments
    )
    return Program(program.name, program.bounds, buffers, ops, segments)


@lru_cache(maxsize=512)
def _moved(ops: Table[Op], buffers: Buffers, first: int, at: int) -> tuple[Table[Op], Buffers]:
    """Ops and buffers with the select of index `at` before op `first`."""
    by_name = buffers.by_name
    suffix, last = ops[first:at], ops[at]
    written = {name for op in suffix for _, name in op.writes}
    needed = [name for op in suffix for _, name in op.reads if name not in written]
    narrow = [name for name in dict.fromkeys(needed) if by_name[name].shape[0] == "tokens"]
    names = {name: f"{name}.rows" for name in narrow}
    selects = [Op("select", (("x", name),), (("out", of_rows),)) for name, of_rows in names.items()]
    names[str(last.write("out"))] = str(last.read("x"))
    behind = [replace(op, reads=tuple((role, names.get(name, name)) for role, name in op.reads)) for op in ops[first:]]
    del behind[at - first]
    changed = {name: replace(by_name[name], shape=("rows", *by_name[name].shape[1:])) for name in written}
    fresh = [replace(by_name[name], name=names[name], shape=("rows", *by_name[name].shape[1:])) for name in narrow]
    return Table((*ops[:first], *selects, *behind)), _with(buffers, changed, str(last.write("out")), fresh)


def _with(buffers: Buffers, changed: dict[str, Buffer], gone: str, fresh: list[Buffer]) -> Buffers:
    """Parts that keep all their buffers stay the tables that they are, for others know what was found out of them."""
    parts = [
        part if changed.keys().isdisjoint(part.by_name) else _changed(part, changed, gone) for part in _parts(buffers)
    ]
    return Buffers.join(*parts, Buffers(fresh))


def _parts(buffers: Buffers) -> tuple[Buffers, ...]:
    return buffers.parts or (buffers,)


def _changed(part: Buffers, changed: dict[str, Buffer], gone: str) -> Buffers:
    return Buffers(changed.get(buffer.name, buffer) for buffer in part if buffer.name != gone)
