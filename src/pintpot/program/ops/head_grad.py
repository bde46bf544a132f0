"""Gradients of a head's rows, some at a time, each to be followed by its update: logits once more, then the product.

Reads the states x [T, D] that the head met and its weight [V, D]; `grad` [n, D] is written V / n times.
"""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.passes import FAR, suffix
from pintpot.program.spec import Extent, Op, Program

OVER_LOGITS = 4.0
"""Passes over the logits of some rows."""


def check(op: Op, program: Program) -> None:
    weight, grad = program.shape(str(op.read("weight"))), program.shape(str(op.write("grad")))
    need(weight[1] == grad[1] and grad[0] <= weight[0], f"head_grad: {grad} of a head {weight}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> int:
    return extent.tokens


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    rows, columns = program.shape(str(op.read("weight")))
    adds, moved = 2.0 * extent.tokens * rows * columns, OVER_LOGITS * extent.tokens * rows
    chunks = -(-rows // program.shape(str(op.write("grad")))[0])
    work = (
        Work(f"aten/product{suffix(program, op)}", adds, extent.tokens),
        Work("aten/values", moved, FAR),
        Work("aten", 12.0 * chunks),
    )
    return Demand(work, multiply_adds=adds, ram_bytes=8.0 * moved)
