"""MeZO: steps without gradients, from two losses on either side of the weights along a direction that is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class ZerothOrder(Step):
    """Losses are taken `distance` from the weights to either side, `at_once` sequences going through a block together.

    The direction is drawn again from its seed whenever it is wanted, so nothing is kept but what learns. A
    step says of a single direction how far to go along it: it takes very many of them.
    """

    paper: ClassVar[str] = "MeZO, Malladi et al. 2023, arXiv:2305.17333"
    facet: ClassVar[Facet] = Facet.GRADIENT
    distance: float = 1e-3
    at_once: int = 1

    def check(self, model: Model, form: Form) -> None:
        need(form.training is not None, "nothing of this model is to learn", NotApplicable)
        need(self.distance > 0, f"losses {self.distance} apart from the weights are one loss", NotApplicable)
        need(self.at_once >= 1, f"{self.at_once} sequences cannot be computed at once", NotApplicable)

    def promise(self, form: Form) -> Form:
        if form.training is None:
            return form
        how = replace(form.training, distance=self.distance, at_once=self.at_once, fused=False, states="")
        return replace(form, training=how)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        train = budget.workload.train
        if train is None:
            return ()
        counts = [train.sequences]
        while counts[-1] > 1:
            counts.append(-(-counts[-1] // 2))
        return tuple(cls(at_once=count) for count in counts)
