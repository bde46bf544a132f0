"""Full fine-tuning: every weight of the model learns, the vocabulary's too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.contract.training import TrainingForm
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class EveryWeight(Step):
    """Each weight is kept in float32 and changed by its own gradient."""

    paper: ClassVar[str] = "Howard and Ruder 2018, arXiv:1801.06146"
    facet: ClassVar[Facet] = Facet.ADAPT

    def check(self, model: Model, form: Form) -> None:
        packed = [weight.name for weight in form.weights if weight.packed]
        need(not packed, f"{', '.join(packed[:3])} are packed, and codes have no gradient to follow", NotApplicable)

    def promise(self, form: Form) -> Form:
        return replace(form, training=TrainingForm())

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.workload.train is not None else ()
