"""The gradients of an op that is computed `forward` in the same program: of its rows, and of its weights that learn."""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program import passes
from pintpot.program.demand import Demand
from pintpot.program.spec import Extent, Op, Program


def check(op: Op, program: Program) -> None:
    known = op.get("of") in passes.CALLS
    need(known, f"training has no op {op.get('of')!r}; it has {', '.join(passes.CALLS)}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> Extent:
    return extent


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    return passes.backward(op, program, extent)
