"""Rows that are given are added to the stream: of a token ~i row i of `given` [G, D] to its row of x [T, D], in place.

DeepStack (Meng et al. 2024, arXiv:2406.04334): what an image is in the depth of its encoder meets the layers of the
language model one by one.
"""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand
from pintpot.program.spec import Extent, Op, Program


def check(op: Op, program: Program) -> None:
    x, given = op.read("x"), op.read("given")
    need(x is not None and given is not None and op.write("out") == x, "give reads given and adds it to x", UsageError)
    widths = program.shape(str(x))[-1], program.shape(str(given))[-1]
    need(widths[0] == widths[1], f"rows of {widths[1]} are given to a stream of {widths[0]}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> int:
    return extent.tokens


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    rows = min(extent.tokens, program.shape(str(op.read("given")))[0])
    return Demand(ram_bytes=12 * rows * program.shape(str(op.read("x")))[-1], phases=1)
