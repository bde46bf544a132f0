"""Rows of the embedding for each token: tokens [T], weight [V, D] -> out [T, D].

An op that reads `ids` (int32) looks up these, as many as its attribute `rows` says, and its buffers are flat.
A token ~i (below 0) takes row i of `given` [G, D], which is what an image became: it is not looked up and not scaled.
"""

from __future__ import annotations

from math import prod

from pintpot.errors import UsageError, need
from pintpot.formats import encoding
from pintpot.program.demand import Demand
from pintpot.program.spec import Extent, Op, Program


def check(op: Op, program: Program) -> None:
    (_, width), out = program.shape(_name(op.read("weight"))), program.shape(_name(op.write("out")))
    found = encoding(program.by_name[_name(op.read("weight"))].format)
    need(found.num_apart == 0, f"embed reads no columns kept apart, as {found.name} has them", UsageError)
    rows, ids = int(op.get("rows", 0)), op.read("ids")
    need((rows > 0) == (ids is not None), "embed has ids of its own and the number of them, or neither", UsageError)
    known = ids is None or prod(program.shape(ids)) >= rows
    need(known, f"embed looks up {rows} words, and {ids} has fewer", UsageError)
    wide = prod(out) >= rows * width if rows else out[-1] == width
    need(wide, f"embed writes rows of {width} into {out}", UsageError)
    given = op.read("given")
    fits = given is None or program.shape(given)[1:] == (width,)
    need(fits, f"the rows given to embed have another width than {width}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> int:
    return num_words(op, extent)


def num_words(op: Op, extent: Extent) -> int:
    """Rows that are looked up."""
    return int(op.get("rows", 0)) or extent.tokens


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    weight = program.by_name[_name(op.read("weight"))]
    _, width = program.shape(weight.name)
    strip_bytes = encoding(weight.format).strip_bytes(width)
    return Demand(ram_bytes=num_words(op, extent) * (strip_bytes + 4 * width), phases=1)


def _name(name: str | None) -> str:
    need(name is not None, "embed reads tokens and weight, and writes out", UsageError)
    return str(name)
