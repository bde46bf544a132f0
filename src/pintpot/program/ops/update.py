"""One step of AdamW on what learns, in place, from its gradient and its two moments: float32, or codes and scales.

The gradient may be that of some rows at a time; moments that rest on disk are in no buffer (`states` is their format).
"""

from __future__ import annotations

from math import prod

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.spec import Extent, Op, Program

PASSES, CALLS, RAM_BYTES = 3.0, 4.0, 28.0
CODED, CODED_PASSES = "dynamic8", 65.0
"""Where moments are decoded and encoded again: alone 8 ns a value on two threads, sums of as many values 0.2; within a
step, beside what reads and writes, 14."""

CODED_RAM_BYTES = 36.0
"""Of a value: weight, gradient and codes take 16; copies of a chunk in float32 do not all stay in the caches."""


def check(op: Op, program: Program) -> None:
    shape = program.shape(str(op.read("weight")))
    moments = {program.shape(name) for role, name in op.reads if role in ("m", "v")}
    # Of a weight that is shared out, only some rows are updated here.
    fits = len(moments) < 2 and all(one[1:] == shape[1:] and one[0] <= shape[0] for one in moments)
    need(fits, f"update: moments of other shapes than the weight {shape}: {moments}", UsageError)
    grad = program.shape(str(op.read("grad")))
    need(grad[1:] == shape[1:] and grad[0] <= shape[0], f"update: a gradient {grad} of a weight {shape}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    shape = program.shape(str(op.read("m") or op.read("weight")))
    values, coded = float(prod(shape)), op.get("states") == CODED and len(shape) > 1
    passes, ram_bytes = (CODED_PASSES, CODED_RAM_BYTES) if coded else (PASSES, RAM_BYTES)
    work = (Work("aten/values", passes * values, round(values)), Work("aten", CALLS))
    return Demand(work, ram_bytes=ram_bytes * values)
