"""What learns moves along a direction that is drawn anew each time, in place: out, across, and back by its step."""

from __future__ import annotations

from math import prod

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.spec import Extent, Op, Program

MOVES = 3.0
"""Out to one side, across to the other, and back."""
PASSES, CALLS = 7.0, 4.0
"""Of each move; drawing takes most of it: 4.4 ns a value beside 0.85 ns of a sum of as many."""


def check(op: Op, program: Program) -> None:
    weight, out = str(op.read("weight")), str(op.write("out"))
    need(weight == out, f"perturb moves {weight} in place, and not to {out}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    values = MOVES * float(prod(program.shape(str(op.read("weight")))))
    work = (Work("aten/values", PASSES * values, round(values / MOVES)), Work("aten", CALLS * MOVES))
    return Demand(work, ram_bytes=8.0 * values)
