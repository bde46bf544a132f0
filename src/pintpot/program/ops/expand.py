"""A weight becomes floats for as long as its block is computed: weight [N, K] of any format -> out [N, K]."""

from __future__ import annotations

from math import prod

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.spec import Extent, Op, Program

READING, DECODING = 0.03, 0.3
"""Of the time that rounding values into a format takes, for reading them out of it again: of strips, which a kernel
does, and of what a model's own file has."""


def check(op: Op, program: Program) -> None:
    weight, out = str(op.read("weight")), str(op.write("out"))
    need(program.shape(weight) == program.shape(out), f"expand makes {out} of another shape than {weight}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    weight = program.by_name[str(op.read("weight"))]
    values = float(prod(program.shape(weight.name)))
    share = READING if op.get("packed", False) else DECODING
    return Demand((Work(f"expand/{weight.format}", share * values),), ram_bytes=8.0 * values)
