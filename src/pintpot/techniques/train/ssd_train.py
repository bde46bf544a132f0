"""What the way back needs of a block is written to disk behind the way forward, and read ahead of the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from pintpot.budget import Train
from pintpot.contract.form import Form
from pintpot.contract.learning import PassingStep
from pintpot.contract.step import Facet
from pintpot.contract.training import TrainingForm
from pintpot.errors import NotApplicable, need
from pintpot.model.spec import FAMILY_OF_MODULES, Model


@dataclass(frozen=True)
class SsdTrain(PassingStep):
    """Of the last blocks the inside of so many `stays`; before them that of so many is `written` to disk.

    Those lie evenly between blocks that are computed again, if there are any. What is on its way takes the memory of
    two insides, however many are written. Planned for each budget beside what it takes the place of, so it is not
    offered by itself.
    """

    paper: ClassVar[str] = "SSDTrain, Wu et al. 2024, arXiv:2408.10013"
    facet: ClassVar[Facet] = Facet.ACTIVATIONS
    stays: int = 0
    written: int = 1

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        recorded = all(part.family == FAMILY_OF_MODULES for part in model.parts)
        need(not recorded, "of what tells pictures apart nothing is written out", NotApplicable)
        need(self.stays >= 0, f"the inside of {self.stays} blocks cannot stay", NotApplicable)
        need(self.written >= 1, f"the inside of {self.written} blocks cannot be written out", NotApplicable)
        routed = form.training is not None and form.training.routing is not None
        need(not routed, "of blocks whose adapters are routed nothing is written out", NotApplicable)
        gradients = form.training is None or not form.training.distance
        need(gradients, "steps from losses alone have no way back to write something out for", NotApplicable)

    def taught(self, how: TrainingForm) -> TrainingForm:
        return replace(how, at_once=self.at_once, stays=self.stays, written=self.written)

    @classmethod
    def choices(cls, train: Train) -> tuple[Self, ...]:
        return ()
