"""PockEngine: which part of a model learns is settled before the first step; gradients go back as far as it reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.learning import LearningStep
from pintpot.contract.step import Facet, Step
from pintpot.contract.training import block_of
from pintpot.contract.weights import WeightForm
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model

LAST = "last:"
SORTS: dict[str, Callable[[WeightForm], bool]] = {
    "attention": lambda weight: weight.role.split("_")[0] in ("q", "k", "v", "o", "qkv"),
    "biases": lambda weight: weight.role.endswith("_bias"),
    "norms": lambda weight: not weight.is_matrix and weight.role.endswith("norm"),
    "blocks": lambda weight: "." in weight.name,
}
"""Words for weights of a kind."""


@dataclass(frozen=True)
class SparseBackward(LearningStep):
    """What `learn` names learns and nothing else: blocks before the first of it keep nothing and have no way back.

    Its parts have commas between them: `last:8` (so many blocks), `attention`, `biases`, `norms`, `blocks`, a role
    like `q`, a block like `layers.3` or one weight of it; `last:8/attention` is what both sides name.
    """

    paper: ClassVar[str] = "PockEngine, Zhu et al. 2023, arXiv:2310.17752"
    facet: ClassVar[Facet] = Facet.LEARNING
    learn: str = "last:8"

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        for part in self.learn.split(","):
            known = "last:N, attention, biases, norms, blocks, a role like q, a block like layers.3, a weight"
            need(bool(_named(part, form)), f"no weight of the model is {part!r}; name {known}", NotApplicable)
        how = self.promise(form).training
        some = how is not None and any(how.trained(weight) for weight in form.weights)
        need(some, f"beside nothing of {self.learn!r} there is an adapter that could learn", NotApplicable)

    def names(self, form: Form) -> tuple[str, ...]:
        """The weights that learn, or beside which something does, in the order of the form."""
        found = {name for part in self.learn.split(",") for name in _named(part, form)}
        return tuple(weight.name for weight in form.weights if weight.name in found)

    def promise(self, form: Form) -> Form:
        return form if form.training is None else replace(form, training=replace(form.training, only=self.names(form)))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        """The last blocks: half of them, half of these, and so on."""
        part = model.language if budget.workload.train is not None else None
        count = len({block_of(one.name) for one in part.weights() if "." in one.name}) if part is not None else 0
        counts: list[int] = []
        while count > 1:
            count = -(-count // 2)
            counts.append(count)
        return tuple(cls(learn=f"{LAST}{one}") for one in counts)


def _named(part: str, form: Form) -> set[str]:
    """The weights that every side of a part names."""
    return set[str].intersection(*(_side(side, form) for side in part.split("/")))


def _side(side: str, form: Form) -> set[str]:
    if side.startswith(LAST):
        number = side.removeprefix(LAST)
        need(number.isdigit() and int(number) > 0, f"{side!r} is no number of blocks, as in last:8", NotApplicable)
        inside = {weight.name: block_of(weight.name) for weight in form.weights if "." in weight.name}
        last = set(list(dict.fromkeys(inside.values()))[-int(number) :])
        return {name for name, block in inside.items() if block in last}
    if side in SORTS:
        return {weight.name for weight in form.weights if SORTS[side](weight)}
    return {weight.name for weight in form.weights if side in (weight.name, block_of(weight.name), weight.role)}
