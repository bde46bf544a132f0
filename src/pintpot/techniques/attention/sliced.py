"""Attention over some heads, or some queries, at a time: of the scores only a slice is ever in memory.

Rabe and Staats 2021 (arXiv:2112.05682) show that attention needs no memory that grows with the square of its length;
over chunks of queries alone, as here, softmax and sums stay what they were. Image models have it as attention slicing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.adapted import recorded_calls
from pintpot.model.spec import Model
from pintpot.program.boxes import Box
from pintpot.program.layout import step_bytes
from pintpot.program.pieces import is_divisible
from pintpot.program.rewriting import rewritten
from pintpot.program.spec import Op, Program, Work
from pintpot.program.tiled import Chain, chain_of, evenly, tile

SLICES = (2, 4, 8, 16)
_PRODUCTS = frozenset({"bmm.default", "baddbmm.default"})
_SOFTMAX = frozenset({"_softmax.default", "_safe_softmax.default"})


@dataclass(frozen=True)
class SlicedAttention(Step):
    """Every attention that has its scores in memory has one of `slices` parts of them at a time: of heads, or queries.

    Attention that PyTorch computes in one call has no scores in memory, and stays as it is.
    """

    paper: ClassVar[str] = "Self-attention Does Not Need O(n^2) Memory, Rabe and Staats 2021, arXiv:2112.05682"
    facet: ClassVar[Facet] = Facet.ATTENTION
    for_memory: ClassVar[bool] = True
    slices: int = 4

    def check(self, model: Model, form: Form) -> None:
        need(self.slices > 1, "attention is divided into two slices at least", NotApplicable)
        need(_has_scores(model), "no attention of the model has its scores in memory", NotApplicable)

    def rewrite(self, work: Work, form: Form) -> Work:
        """Raises NotApplicable where the most memory is needed elsewhere."""
        found = rewritten(work, lambda program: _sliced(program, self.slices))
        if found is None:
            why = f"{self.slices} slices of attention take no less memory: scores are not what takes most"
            raise NotApplicable(why)
        return found

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return tuple(cls(slices=slices) for slices in SLICES) if _has_scores(model) else ()


def _has_scores(model: Model) -> bool:
    calls = recorded_calls(model)
    return not _PRODUCTS.isdisjoint(calls) and not _SOFTMAX.isdisjoint(calls)


@lru_cache(maxsize=64)
def _sliced(program: Program, slices: int) -> Program | None:
    """None where that takes no less memory."""
    found = program
    # From the last on, so that the places of those before stay what they are.
    for first in reversed(range(len(program.ops))):
        inside = _scores(program.ops, first)
        chain = chain_of(found, inside) if inside else None
        divided = None if chain is None else _divided(found, chain, slices)
        found = found if divided is None else divided
    return found if step_bytes(found) < step_bytes(program) else None


def _scores(ops: tuple[Op, ...], first: int) -> list[int]:
    """The places of the ops from a product that makes scores to the one that they weigh; none where that is not so."""
    if ops[first].get("call") not in _PRODUCTS:
        return []
    inside, derived, normed = [first], {ops[first].writes[0][1]}, False
    for at in range(first + 1, len(ops)):
        op = ops[at]
        if derived.isdisjoint(name for _, name in (*op.reads, *op.writes)):
            continue
        call = op.get("call")
        if call in _PRODUCTS:
            weighs = normed and op.reads[-2][1] in derived and op.reads[-1][1] not in derived
            return [*inside, at] if weighs and _num_outputs(op) < _num_outputs(ops[first]) else []
        if op.kind != "aten" or not is_divisible(op):
            return []
        normed = normed or call in _SOFTMAX
        inside.append(at)
        derived |= {name for _, name in op.writes}
    return []


def _num_outputs(op: Op) -> int:
    return prod(op.get("outs")[0][1]) if op.get("outs") else 0


def _divided(program: Program, chain: Chain, slices: int) -> Program | None:
    ways = (tile(program, chain, boxes) for boxes in _ways(chain.result_view[1], slices))
    return next((found for found in ways if found is not None), None)


def _ways(sizes: tuple[int, ...], slices: int) -> Iterator[list[Box]]:
    """Boxes of [heads, queries, width]: of whole heads where there are enough, else of queries of each, or of all."""
    heads, queries, width = sizes
    by_head = evenly(heads, slices)
    by_query = evenly(queries, -(-slices // heads))
    yield [(one, other, (0, width)) for one, other in product(by_head, by_query)]
    yield [((0, heads), one, (0, width)) for one in evenly(queries, slices)]
