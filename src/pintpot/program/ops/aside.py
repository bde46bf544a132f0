"""What a block's way back needs is copied together, to where the disk takes it from: `bytes` of one pass."""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand
from pintpot.program.spec import Extent, Op, Program

COPIES = 3.0
"""Read from where it was made, and the line that is written is fetched before."""


def check(op: Op, program: Program) -> None:
    need(op.get("bytes", 0) >= 0, "aside copies a number of bytes", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    return Demand(ram_bytes=COPIES * float(op.get("bytes")))
