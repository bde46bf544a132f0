"""Multi-head routing: tasks share an inventory of adapters, and each mixes parts of them in its own way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.routing import HEADS, Routing
from pintpot.contract.step import Facet, Step
from pintpot.contract.training import TrainingForm
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class RoutedHeads(Step):
    """`adapters` of `rank` beside each weight of the `roles`; columns of A and rows of B fall into `heads` parts.

    A task's part is the mean of that part of all adapters, by sigmoids of what the task learned of each. With one head
    this is Polytropon (Ponti et al. 2022, arXiv:2202.13914); the paper draws these sigmoids while learning (relaxed
    Bernoulli), here their means are taken, so that nothing but the order of examples is drawn.
    """

    paper: ClassVar[str] = "Multi-Head Adapter Routing, Caccia et al. 2022, arXiv:2211.03831"
    facet: ClassVar[Facet] = Facet.ADAPT
    rank: int = 8
    alpha: float = 16.0
    roles: str = "q,v"
    adapters: int = 8
    heads: int = 4
    tasks: int = 1

    def check(self, model: Model, form: Form) -> None:
        need(self.rank >= 1, f"an adapter has one column or more, not {self.rank}", NotApplicable)
        few = f"{self.adapters} adapters in {self.heads} heads for {self.tasks} tasks: each is one or more"
        need(min(self.adapters, self.heads, self.tasks) >= 1, few, NotApplicable)
        roles = self.roles.split(",")
        found = [w for w in form.weights if w.is_matrix and "." in w.name and w.experts == 1]
        there = {w.role for w in found}
        strange = [role for role in roles if role not in there]
        names = ", ".join(sorted(there))
        need(not strange, f"the model has no weights {', '.join(strange)} in its layers; it has {names}", NotApplicable)
        uneven = [f"{w.name} {w.shape}" for w in found if w.role in roles and any(n % self.heads for n in w.shape)]
        need(not uneven, f"{', '.join(uneven[:2])} cannot be cut into {self.heads} heads", NotApplicable)

    def promise(self, form: Form) -> Form:
        routing = Routing(HEADS, self.adapters, heads=self.heads, tasks=self.tasks)
        return replace(
            form, training=TrainingForm(self.rank, self.alpha, tuple(self.roles.split(",")), routing=routing)
        )

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.workload.train is not None else ()
