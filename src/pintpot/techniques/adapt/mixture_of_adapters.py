"""MixLoRA: the feed-forward network of a layer becomes several, which share its weights and differ by adapters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.routing import EXPERTS, FFN_ROLES, Routing
from pintpot.contract.step import Facet, Step
from pintpot.contract.training import TrainingForm
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class MixtureOfAdapters(Step):
    """`experts` adapters of `rank` beside gate, up and down; each token takes the `chosen` that a router likes best.

    Weights of the `roles` (q, k, v, o) have one adapter. What is wanted of routers beside few losses is even use:
    `balance` times experts x sum over them of (share of choices x mean probability), the mean over sequences.
    """

    paper: ClassVar[str] = "MixLoRA, Li et al. 2024, arXiv:2404.15159"
    facet: ClassVar[Facet] = Facet.ADAPT
    rank: int = 8
    alpha: float = 16.0
    roles: str = "q,v"
    experts: int = 8
    chosen: int = 2
    balance: float = 0.01

    def check(self, model: Model, form: Form) -> None:
        need(self.rank >= 1, f"an adapter has one column or more, not {self.rank}", NotApplicable)
        few = f"of {self.experts} experts a token takes {self.chosen}; it takes one or more, and not all"
        need(1 <= self.chosen < self.experts, few, NotApplicable)
        need(self.balance >= 0, f"a balance of {self.balance} wants uneven use", NotApplicable)
        plain = {w.role for w in form.weights if w.is_matrix and "." in w.name and w.experts == 1}
        lacking = [role for role in FFN_ROLES if role not in plain]
        need(
            not lacking,
            "experts stand beside a plain gated feed-forward network, and the model has none",
            NotApplicable,
        )
        strange = [role for role in self._roles if role not in plain]
        names = ", ".join(sorted(plain))
        need(not strange, f"the model has no weights {', '.join(strange)} in its layers; it has {names}", NotApplicable)
        biased = [w.name for w in form.weights if w.role in {f"{role}_bias" for role in FFN_ROLES}]
        need(not biased, f"{', '.join(biased[:1])}: experts of networks with biases are not known here", NotApplicable)

    def promise(self, form: Form) -> Form:
        routing = Routing(EXPERTS, self.experts, self.chosen, self.balance)
        return replace(form, training=TrainingForm(self.rank, self.alpha, self._roles, routing=routing))

    @property
    def _roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.roles.split(","), *FFN_ROLES)))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.workload.train is not None else ()
