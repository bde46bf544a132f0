"""LoRA: beside a weight that stays as it is two narrow matrices learn, whose product is added to it."""

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
class LowRank(Step):
    """Adapters of `rank` columns beside the weights of the `roles` in every layer, added `alpha / rank` times.

    `roles` are names of weights with commas between them: q, k, v, o, gate, up, down.
    """

    paper: ClassVar[str] = "LoRA, Hu et al. 2021, arXiv:2106.09685"
    facet: ClassVar[Facet] = Facet.ADAPT
    rank: int = 8
    alpha: float = 16.0
    roles: str = "q,v"

    def check(self, model: Model, form: Form) -> None:
        need(self.rank >= 1, f"an adapter has one column or more, not {self.rank}", NotApplicable)
        there = {w.role for w in form.weights if w.is_matrix and "." in w.name and w.experts == 1}
        strange = [role for role in self.roles.split(",") if role not in there]
        names = ", ".join(sorted(there))
        need(not strange, f"the model has no weights {', '.join(strange)} in its layers; it has {names}", NotApplicable)

    def promise(self, form: Form) -> Form:
        return replace(form, training=TrainingForm(self.rank, self.alpha, tuple(self.roles.split(","))))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.workload.train is not None else ()
