"""Rows of the embedding for each token: tokens [T], weight [V, D] -> out [T, D]."""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.formats import encoding
from pintpot.program.demand import Demand
from pintpot.program.spec import Extent, Op, Program


def check(op: Op, program: Program) -> None:
    (_, width), out = program.shape(_name(op.read("weight"))), program.shape(_name(op.write("out")))
    found = encoding(program.by_name[_name(op.read("weight"))].format)
    need(found.num_apart == 0, f"embed reads no columns kept apart, as {found.name} has them", UsageError)
    need(out[-1] == width, f"embed writes rows of {out[-1]}, the weight has {width}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> int:
    return extent.tokens


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    weight = program.by_name[_name(op.read("weight"))]
    _, width = program.shape(weight.name)
    strip_bytes = encoding(weight.format).strip_bytes(width)
    return Demand(ram_bytes=extent.tokens * (strip_bytes + 4 * width), phases=1)


def _name(name: str | None) -> str:
    need(name is not None, "embed reads tokens and weight, and writes out", UsageError)
    return str(name)
