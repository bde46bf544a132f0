"""An op of a network as PyTorch computes it while the network learns: the kind is its attribute `of`.

It goes over all tokens, some at a time (`program.passes`). What it keeps for the way back it writes as `saved`.
"""

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
    return passes.forward(op, program, extent)
