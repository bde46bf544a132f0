"""Which experts each token meets (Shazeer et al. 2017, arXiv:1701.06538), and how much of each its sum has.

scores [T, E] -> chosen [T, k] int32, the k experts of the largest scores, the largest first and the lowest index where
two are equal; shares [T, k], their softmax over all experts, or, where `normed`, over the chosen.
"""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand
from pintpot.program.ops.linear import over_rows
from pintpot.program.spec import Extent, Op, Program


def check(op: Op, program: Program) -> None:
    scores, chosen, shares = op.read("scores"), op.write("chosen"), op.write("shares")
    there = scores is not None and chosen is not None and shares is not None
    need(there, "route reads scores and writes chosen and shares", UsageError)
    num, kept = program.shape(str(scores))[-1], program.shape(str(chosen))[-1]
    need(0 < kept <= num and program.shape(str(shares))[-1] == kept, f"route: {kept} of {num} experts", UsageError)
    need(program.by_name[str(chosen)].format == "int32", "route writes experts as int32", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> int:
    return extent.rows if over_rows(op, program) else extent.tokens


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    values = float(depends(op, program, extent)) * program.shape(str(op.read("scores")))[-1]
    return Demand(ram_bytes=8.0 * values, phases=1)
