"""What processes that learn together send each other while a block waits: `bytes` that come and go in one pass.

Priced as copies in memory, which they are on one machine; over a network they take longer.
"""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand
from pintpot.program.spec import Extent, Op, Program

COPIES = 6.0
"""Into what is sent, through the kernel and back, and out of what came."""


def check(op: Op, program: Program) -> None:
    need(op.get("bytes", 0) >= 0, "exchange sends a number of bytes", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    return Demand(ram_bytes=COPIES * float(op.get("bytes")))
