"""Steps of AdamW on what learns in a block, in turns between the processor and a card, which takes one of `stride`.

Reads weights, gradients and moments, float32, as so many updates in a row do; all lie in RAM before and after.
"""

from __future__ import annotations

from math import prod

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.ops.update import CALLS, PASSES, RAM_BYTES
from pintpot.program.spec import Extent, Op, Program
from pintpot.program.turns import IN_BYTES, OUT_BYTES, shared_out

STAGED_BYTES, STAGING = 8, 1.0
"""Of a gradient that goes to the card: it is copied within RAM first, in one pass."""
STARTS = 16.0
"""Calls that begin a turn there: seven copies, and a step."""


def check(op: Op, program: Program) -> None:
    need(op.get("stride", 0) >= 2, "turns leave the processor something, so their stride is 2 at least", UsageError)
    weights, written = op.read_all("weight"), [name for role, name in op.writes if role == "out"]
    need(list(weights) == written, f"turns update {', '.join(weights)} in place", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    values = sum(prod(program.shape(name)) for name in op.read_all("weight"))
    here, there = shared_out(values, op.get("stride"))
    each = values / (here + there)
    work = (
        Work("aten/values", each * (PASSES * here + STAGING * there), round(each)),
        Work("aten", CALLS * here + STARTS * there),
    )
    # What the card takes and gives passes through RAM, as what is updated here does.
    beside = (
        Work("cuda/h2d_pinned", each * IN_BYTES), Work("cuda/read", each * (IN_BYTES + OUT_BYTES)),
        Work("cuda/d2h_pinned", each * OUT_BYTES),
    )  # fmt: skip
    moved = RAM_BYTES * values + STAGED_BYTES * each * there
    return Demand(work, ram_bytes=moved, beside=beside, turns=there)
