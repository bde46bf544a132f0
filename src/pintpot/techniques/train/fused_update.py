"""The optimizer's step on a block follows its gradients at once, so that no gradient of the whole model ever exists."""

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
class FusedUpdate(Step):
    """Of the vocabulary alone gradients wait for the end of the step: its last part of them comes last."""

    paper: ClassVar[str] = "LOMO, Lv et al. 2023, arXiv:2306.09782"
    facet: ClassVar[Facet] = Facet.GRADIENT

    def check(self, model: Model, form: Form) -> None:
        need(form.training is not None, "nothing of this model is to learn", NotApplicable)

    def promise(self, form: Form) -> Form:
        return form if form.training is None else replace(form, training=replace(form.training, fused=True))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.workload.train is not None else ()
