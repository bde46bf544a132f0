"""One step of AdamW on what learns, in place, from its gradient and its two moments: float32, or codes and scales."""

from __future__ import annotations

from math import prod

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.spec import Extent, Op, Program

PASSES, CALLS = 8.0, 12.0
CODED_PASSES = 20.0
"""Where moments are decoded and encoded again: measured beside sums of as many values, 13 ns to 0.85 ns a value."""

CODED_RAM_BYTES = 36.0
"""Of a value: weight, gradient and codes take 16; copies of a chunk in float32 do not all stay in the caches."""


def check(op: Op, program: Program) -> None:
    shapes = {program.shape(name) for role, name in op.reads if role in ("weight", "grad", "m", "v")}
    need(len(shapes) == 1, f"update: gradient and moments of other shapes than the weight: {shapes}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    values = float(prod(program.shape(str(op.read("weight")))))
    coded = op.read("m.scales") is not None
    passes, ram_bytes = (CODED_PASSES, CODED_RAM_BYTES) if coded else (PASSES, 28.0)
    work = (Work("aten/values", passes * values, round(values)), Work("aten", CALLS))
    return Demand(work, ram_bytes=ram_bytes * values)
