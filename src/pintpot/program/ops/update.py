"""One step of AdamW on what learns, from its gradient and its two moments, all of them float32 in place."""

from __future__ import annotations

from math import prod

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.spec import Extent, Op, Program

PASSES, CALLS = 8.0, 12.0


def check(op: Op, program: Program) -> None:
    shapes = {program.shape(name) for role, name in op.reads if role in ("weight", "grad", "m", "v")}
    need(len(shapes) == 1, f"update: gradient and moments of other shapes than the weight: {shapes}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    values = float(prod(program.shape(str(op.read("weight")))))
    work = (Work("aten/values", PASSES * values, round(values)), Work("aten", CALLS))
    return Demand(work, ram_bytes=28.0 * values)
