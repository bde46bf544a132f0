"""Of the way forward only what each block begins with is kept; on the way back the block is computed again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.contract.form import Form
from pintpot.contract.learning import PassingStep
from pintpot.contract.step import Facet
from pintpot.contract.training import TrainingForm
from pintpot.errors import NotApplicable, need
from pintpot.model.spec import Model


@dataclass(frozen=True)
class Recompute(PassingStep):
    """`at_once` of a step's sequences go through a block together, so that only theirs is in memory of its inside.

    The others follow before the block's weights leave, which so pass once in either direction, however few that are.
    Of the last blocks the inside of so many `stays` as well, where there is room, and is not computed twice.
    """

    paper: ClassVar[str] = "Chen et al. 2016, arXiv:1604.06174"
    facet: ClassVar[Facet] = Facet.ACTIVATIONS
    stays: int = 0

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        need(self.stays >= 0, f"the inside of {self.stays} blocks cannot stay", NotApplicable)
        routed = form.training is not None and form.training.routing is not None
        need(not self.stays or not routed, "of blocks whose adapters are routed nothing stays", NotApplicable)

    def taught(self, how: TrainingForm) -> TrainingForm:
        return replace(how, at_once=self.at_once, stays=self.stays)
