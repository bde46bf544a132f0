"""The first stage of a convolutional network patch by patch: its large early activations are never in memory whole.

MCUNetV2 (Lin et al. 2021, arXiv:2110.15352): the result of the first layers, when it has become small, is computed in
patches, each from its own part of the image; where their receptive fields overlap, the layers before compute twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import inf, prod
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
from pintpot.program.pieces import is_divisible, out_view
from pintpot.program.rewriting import rewritten
from pintpot.program.spec import Op, Program, Work
from pintpot.program.tiled import Chain, chain_of, evenly, tile

SIDES = (2, 4)
_CONVOLUTION = "convolution.default"


@dataclass(frozen=True)
class PatchStage(Step):
    """What the first convolutions make is computed in `side` times `side` patches, up to where least memory is needed.

    The same convolutions over parts of their rows; their sums may be taken in another order, for PyTorch chooses a way
    by the shape.
    """

    paper: ClassVar[str] = "MCUNetV2, Lin et al. 2021, arXiv:2110.15352"
    facet: ClassVar[Facet] = Facet.PATCHES
    for_memory: ClassVar[bool] = True
    side: int = 2

    def check(self, model: Model, form: Form) -> None:
        need(self.side > 1, "a side has two patches at least", NotApplicable)
        need(_CONVOLUTION in recorded_calls(model), "the model has no convolutions in a row to divide", NotApplicable)

    def rewrite(self, work: Work, form: Form) -> Work:
        """Raises NotApplicable where the most memory is needed elsewhere."""
        found, side = rewritten(work, lambda program: _patched(program, self.side)), self.side
        if found is None:
            raise NotApplicable(f"no {side} by {side} patches of a first stage take less memory than it takes whole")
        return found

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return tuple(cls(side=side) for side in SIDES) if _CONVOLUTION in recorded_calls(model) else ()


@lru_cache(maxsize=64)
def _patched(program: Program, side: int) -> Program | None:
    """None where no stage takes less memory in patches."""
    least, found = step_bytes(program), None
    for chain in _stages(program):
        boxes = _patches(chain, side)
        # A patch in the middle overlaps with most others: with it alone a program takes what it takes with all.
        middle = min(len(boxes) // 2 + side // 2 * (side % 2 == 0), len(boxes) - 1)
        one = tile(program, chain, [boxes[middle]])
        if one is not None and step_bytes(one) < least:
            least, found = step_bytes(one), chain
    made = None if found is None else tile(program, found, _patches(found, side))
    return made if made is not None and step_bytes(made) < step_bytes(program) else None


def _patches(chain: Chain, side: int) -> list[Box]:
    height, width = chain.result_view[1][-2:]
    axes = [(0, size) for size in chain.result_view[1][:-2]]
    return [(*axes, *patch) for patch in product(evenly(height, side), evenly(width, side))]


def _stages(program: Program) -> Iterator[Chain]:
    """The chains of ops from the first convolution on that have one result, each a smaller one than those before."""
    ops, least = program.ops, inf
    first = next((at for at, op in enumerate(ops) if op.get("call") == _CONVOLUTION or op.get("gather")), len(ops))
    while 0 < first < len(ops) and _leads(ops[first - 1], ops[first]):
        first -= 1
    for last in range(first, len(ops)):
        if not is_divisible(ops[last]):
            return
        if ops[last].kind != "aten":
            continue
        view = out_view(ops[last])
        if len(view[1]) != 4:
            return
        if last > first and prod(view[1]) < least:
            chain = chain_of(program, range(first, last + 1))
            if chain is not None:
                yield chain
                least = prod(view[1])


def _leads(op: Op, to: Op) -> bool:
    """Whether an op makes what the next one reads."""
    return is_divisible(op) and bool(op.writes) and op.writes[0][1] in {name for _, name in to.reads}
