"""Deep Optimizer States: updates take turns between the processor and a graphics card; the states stay in RAM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.learning import LearningStep
from pintpot.contract.resting import rests_on_disk
from pintpot.contract.slots import Slots
from pintpot.contract.step import Facet, Step
from pintpot.contract.updating import Piece, Updating, update
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.program.spec import Buffer, Op, Program, Segment, Stage, Work
from pintpot.program.turns import PLACES, TURN_VALUES, is_elsewhere

if TYPE_CHECKING:
    import torch

    from pintpot.kernels.torch.adam import Rates
    from pintpot.kernels.torch.card import Card

STRIDES = (2, 3, 4, 6, 8)
CARD = "for the card"
STAGED, BESIDE_VALUES = "turns.staged", 128 << 20
"""Gradients on their way to the card; and what CUDA takes of a process, in values of four bytes: half a gigabyte, for
there was no card to measure it with."""


@dataclass(frozen=True)
class DeepOptimizerStates(LearningStep):
    """Of what a block has to update, the first of every `stride` runs goes to the card and back, in three streams.

    The processor updates the others meanwhile, in place. The best stride is the one at which both are done together: it
    follows from the machine's rates, which the planner knows.
    """

    paper: ClassVar[str] = "Maurya et al. 2024, arXiv:2410.21316"
    facet: ClassVar[Facet] = Facet.TURNS
    stride: int = STRIDES[0]

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        how = form.training
        if how is None:
            return
        need(self.stride >= 2, f"a stride of {self.stride} leaves the processor nothing to update", NotApplicable)
        need(how.states == "f32", "only moments in float32 go to another device as they are", NotApplicable)
        need(how.ranks == 1, "several processes would meet at one card", NotApplicable)
        away = [weight.name for weight in form.weights if rests_on_disk(weight, how)]
        need(not away, f"{', '.join(away[:3])} rest on disk, and updates take turns over what is in RAM", NotApplicable)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        if budget.workload.train is None or machine.card is None:
            return ()
        return tuple(cls(stride=stride) for stride in STRIDES)

    def rewrite(self, work: Work, form: Form) -> Work:
        """What is updated in a row is one op, which both devices share."""
        return Work(tuple(self._sharing(stage) for stage in work.stages), work.key)

    def _sharing(self, stage: Stage) -> Stage:
        program = stage.programs[0]
        ops: list[Op] = []
        segments: list[Segment] = []
        for segment in program.segments:
            first = len(ops)
            own = program.ops[segment.first : segment.stop]
            for kind, group in groupby(own, lambda op: op.kind):
                found = list(group)
                ops += self._shared(found) if kind == "update" else found
            segments.append(Segment(first, len(ops), segment.slot))
        if not any(op.kind == "turns" for op in ops):
            return stage
        sizes = {STAGED: PLACES * TURN_VALUES, "turns.card": BESIDE_VALUES}
        more = tuple(Buffer(name, (size,), "f32", CARD, "session") for name, size in sizes.items())
        made = Program(program.name, program.bounds, (*program.buffers, *more), tuple(ops), tuple(segments))
        return replace(stage, programs=(made,))

    def _shared(self, updates: list[Op]) -> Iterator[Op]:
        reads = tuple(read for op in updates for read in op.reads)
        writes = tuple(write for op in updates for write in op.writes)
        yield Op("turns", reads, writes, (("stride", self.stride),))

    def install(self, slots: Slots) -> None:
        slots.updating = InTurns(self.stride)


def _cuda() -> Card:
    from pintpot.kernels.torch.card import CudaCard

    return CudaCard(TURN_VALUES, PLACES)


@dataclass
class InTurns(Updating):
    """The first of every `stride` pieces goes to the card, which is opened before the first step."""

    piece_values = TURN_VALUES
    stride: int
    opened: Callable[[], Card] = _cuda
    _card: Card | None = field(default=None, repr=False)

    def begin(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._card = self.opened()
        self._card.hold(tensors.values())

    def step(self, pieces: Iterable[Piece], rates: Rates) -> None:
        away: list[Piece] = []
        for number, piece in enumerate(pieces):
            if self._card is not None and is_elsewhere(number, self.stride):
                self._card.give((piece.value, piece.grad, piece.m, piece.v), rates)
                away.append(piece)
            else:
                update(piece, rates)
        if self._card is not None:
            self._card.wait()
        for piece in away:
            piece.kept()

    def end(self) -> None:
        if self._card is not None:
            self._card.release()
        self._card = None
