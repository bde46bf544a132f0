"""The rows whose logits are wanted: x [T, D] -> out [R, D]."""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand
from pintpot.program.spec import Extent, Op, Program


def check(op: Op, program: Program) -> None:
    x, out = program.shape(str(op.read("x"))), program.shape(str(op.write("out")))
    need(x[-1] == out[-1], "select keeps the width of its rows", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> int:
    return extent.rows


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    return Demand(ram_bytes=8.0 * extent.rows * program.shape(str(op.read("x")))[-1], phases=1)
