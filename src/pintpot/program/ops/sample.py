"""The next token of each sequence from its logits: logits [R, V] -> next [R], and logprob [R] where it is wanted.

Repetition penalty, temperature, top-k, top-p (Holtzman et al. 2019), min-p (Nguyen et al. 2024), each keeping all that
is as likely as the last it keeps; temperature 0 takes the largest, the lowest index where two are equal. Random numbers
come from a counter, so a seed repeats an answer. After the penalty comes what the call has for a sequence: a bias of
some logits, and a mask of the tokens that may come. `logprob` is of the token before penalty, temperature and cuts.
"""

from __future__ import annotations

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand
from pintpot.program.spec import Extent, Op, Program


def check(op: Op, program: Program) -> None:
    logits = op.read("logits")
    need(logits is not None and op.write("next") is not None, "sample reads logits and writes next", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> int:
    return extent.rows


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    return Demand(ram_bytes=12.0 * extent.rows * program.shape(str(op.read("logits")))[-1], phases=1)
