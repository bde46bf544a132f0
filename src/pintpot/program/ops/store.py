"""What a block has learned goes back to disk behind the computation: `bytes` of one pass."""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand
from pintpot.program.spec import Extent, Op, Program


def check(op: Op, program: Program) -> None:
    need(op.lane == "write" and op.get("bytes", 0) >= 0, "store writes a number of bytes on the write lane", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    num_bytes = float(op.get("bytes"))
    return Demand(disk_bytes=num_bytes, ram_bytes=num_bytes)
