"""AdamW: steps by the mean of past gradients over the root of the mean of their squares; weights decay beside it."""

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
class AdamW(Step):
    """Both means in float32 for everything that learns."""

    paper: ClassVar[str] = "Loshchilov and Hutter 2017, arXiv:1711.05101"
    facet: ClassVar[Facet] = Facet.OPTIMIZER

    def check(self, model: Model, form: Form) -> None:
        need(form.training is not None, "nothing of this model is to learn", NotApplicable)

    def promise(self, form: Form) -> Form:
        return form if form.training is None else replace(form, training=replace(form.training, states="f32"))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.workload.train is not None else ()
