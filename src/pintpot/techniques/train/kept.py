"""Back-propagation as it was published: of the way forward everything is kept that the way back needs."""

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
class Kept(PassingStep):
    """Nothing is computed twice; `at_once` pictures of a step go forward and back before the next ones do."""

    paper: ClassVar[str] = "Rumelhart et al. 1986, doi:10.1038/323533a0"
    facet: ClassVar[Facet] = Facet.ACTIVATIONS

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        recorded = all(part.family == FAMILY_OF_MODULES for part in model.parts)
        need(recorded, "a decoder keeps what its blocks begin with, and computes them again", NotApplicable)

    def taught(self, how: TrainingForm) -> TrainingForm:
        return replace(how, at_once=self.at_once, kept=True)

    @classmethod
    def choices(cls, train: Train) -> tuple[Self, ...]:
        return super().choices(train) if train.of == "pictures" else ()
