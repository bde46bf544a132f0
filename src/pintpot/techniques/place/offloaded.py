"""While a model learns, blocks that do not fit rest on disk and come when they are computed, forward and then backward.

A step reads each of them twice however many sequences it has, a block ahead of the computation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form, WeightForm, Weights
from pintpot.contract.step import Facet, Step
from pintpot.contract.training import block_of
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class Offloaded(Step):
    """The first `resident` blocks lie in RAM as they are multiplied with; the vocabulary counts as the first of them.

    The others stay as the model's own files hold them. What was packed for learning is in no file, and stays in RAM.
    """

    paper: ClassVar[str] = "ZeRO-Infinity, Rajbhandari et al. 2021, arXiv:2104.07857"
    facet: ClassVar[Facet] = Facet.PLACE
    resident: int = 0

    def check(self, model: Model, form: Form) -> None:
        need(form.training is not None, "nothing of this model is to learn", NotApplicable)
        stays = self.resident >= num_blocks(form)
        need(stays or not _all_change(form), "what learns stays in RAM, and here that is every weight", NotApplicable)

    def promise(self, form: Form) -> Form:
        numbers: dict[str, int] = {}
        for weight in form.weights:
            if weight.is_matrix and not weight.packed:
                numbers.setdefault(_unit(weight), len(numbers))
        changed = [self._placed(weight, numbers.get(_unit(weight), 0) < self.resident, form) for weight in form.weights]
        return replace(form, weights=Weights(changed))

    def _placed(self, weight: WeightForm, stays: bool, form: Form) -> WeightForm:
        if not weight.is_matrix or weight.packed:
            return weight
        if form.training is not None and form.training.changes(weight):
            return replace(weight, format="f32")
        computed_in = "f32" if form.training is None else form.training.computed_in
        return replace(weight, format=computed_in) if stays else replace(weight, format=weight.source, ram_rows=0)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.workload.train is not None else ()


def num_blocks(form: Form) -> int:
    """Blocks that `resident` may count: those that are not packed."""
    return len({_unit(weight) for weight in form.weights if weight.is_matrix and not weight.packed})


def _all_change(form: Form) -> bool:
    return all(form.training is not None and form.training.changes(weight) for weight in form.weights)


def _unit(weight: WeightForm) -> str:
    return block_of(weight.name) if "." in weight.name else "vocabulary"
