"""The optimizer's two means in 8 bits: a byte a value, and a scale for every block of them that lie in a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.contract.training import DYNAMIC8
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class EightBitStates(Step):
    """AdamW whose means rest as codes, finest near zero and near a block's largest, between steps that are float32.

    Matrices have them so; of norms and biases, which are few, both means stay in float32.
    """

    paper: ClassVar[str] = "Dettmers et al. 2021, arXiv:2110.02861"
    facet: ClassVar[Facet] = Facet.OPTIMIZER

    def check(self, model: Model, form: Form) -> None:
        need(form.training is not None, "nothing of this model is to learn", NotApplicable)

    def promise(self, form: Form) -> Form:
        return form if form.training is None else replace(form, training=replace(form.training, states=DYNAMIC8))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.workload.train is not None else ()
