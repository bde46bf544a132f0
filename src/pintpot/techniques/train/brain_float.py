"""Products in bfloat16 while a model learns: rows and weights are rounded as they meet, all else is float32."""

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
class BrainFloat(Step):
    """Weights that do not learn take half the memory, and some processors have faster instructions for it."""

    paper: ClassVar[str] = "Kalamkar et al. 2019, arXiv:1905.12322"
    facet: ClassVar[Facet] = Facet.FUNCTIONS

    def check(self, model: Model, form: Form) -> None:
        need(form.training is not None, "nothing of this model is to learn", NotApplicable)

    def promise(self, form: Form) -> Form:
        return form if form.training is None else replace(form, training=replace(form.training, computed_in="bf16"))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.workload.train is not None else ()
