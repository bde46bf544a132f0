"""The losses of pictures by what was made of them, numbers [n, classes], and their gradients; or the losses alone.

It goes over all pictures of a step, some at a time.
"""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.spec import Extent, Op, Program

PASSES, CALLS = 6.0, 10.0


def check(op: Op, program: Program) -> None:
    need(op.read("x") is not None and op.read("targets") is not None, "class_loss reads x and targets", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> Extent:
    return extent


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    times = -(-extent.tokens // max(1, extent.rows))
    values = PASSES * times * program.shape(str(op.read("x")))[0]
    work = (Work("aten/values", values, round(values / times)), Work("aten", CALLS * times))
    return Demand(work, ram_bytes=4.0 * values)
