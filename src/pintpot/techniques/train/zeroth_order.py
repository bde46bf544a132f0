"""MeZO: steps without gradients, from two losses on either side of the weights along a direction that is drawn."""

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
class ZerothOrder(PassingStep):
    """Losses are taken `distance` from the weights to either side, `at_once` sequences going through a block together.

    The direction is drawn again from its seed whenever it is wanted, so nothing is kept but what learns. A
    step says of a single direction how far to go along it: it takes very many of them.
    """

    paper: ClassVar[str] = "MeZO, Malladi et al. 2023, arXiv:2305.17333"
    facet: ClassVar[Facet] = Facet.GRADIENT
    distance: float = 1e-3

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        need(self.distance > 0, f"losses {self.distance} apart from the weights are one loss", NotApplicable)

    def taught(self, how: TrainingForm) -> TrainingForm:
        return replace(how, distance=self.distance, at_once=self.at_once, fused=False, states="")
