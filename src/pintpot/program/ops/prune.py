"""A weight [N, K] as rows meet it while it is learned to be sparse: every four values, less their second smallest."""

from __future__ import annotations

from math import prod

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.spec import Extent, Op, Program

PASSES, CALLS = 12.0, 14.0
"""Of values, and calls: magnitudes, the network that orders four of them, what is taken off, and the scale."""


def check(op: Op, program: Program) -> None:
    weight, out = str(op.read("weight")), str(op.write("out"))
    need(program.shape(weight) == program.shape(out), f"prune makes {out} of another shape than {weight}", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    values = float(prod(program.shape(str(op.read("weight")))))
    return Demand((Work("aten/values", PASSES * values, round(values)), Work("aten", CALLS)), ram_bytes=24.0 * values)
