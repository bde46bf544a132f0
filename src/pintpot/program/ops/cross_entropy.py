"""The losses of all words that are learned, and the gradients of the states that the head met.

Reads the head's weight [V, D], whose rows pass by some at a time (`chunk`), so that no logits of all words exist. Where
the weight itself learns, the states that met it are kept for `head_grad`. Without `backward` it is only asked.
"""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.passes import FAR, suffix
from pintpot.program.spec import Extent, Op, Program

OVER_LOGITS = 6.0
"""Passes over the logits of a chunk."""


def check(op: Op, program: Program) -> None:
    need(int(op.get("chunk", 0)) > 0, "cross_entropy takes some rows of the vocabulary at a time", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> int:
    return extent.tokens


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    rows, columns = program.shape(str(op.read("weight")))
    one = float(extent.tokens) * rows * columns
    adds = one * (2.0 if op.get("backward", True) else 1.0)
    chunk = int(op.get("chunk"))
    moved, chunks = OVER_LOGITS * extent.tokens * rows, -(-rows // chunk)
    work = (
        Work(f"aten/product{suffix(program, op)}", adds, extent.tokens),
        Work("aten/values", moved, FAR),
        Work("aten", 20.0 * chunks),
    )
    return Demand(work, multiply_adds=adds, ram_bytes=8.0 * moved)
