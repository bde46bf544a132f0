"""While a model learns, blocks that do not fit rest on disk and come when they are computed, forward and then backward.

A step reads each of them twice however many sequences it has, a block ahead of the computation; what learns is updated
as its gradients arrive, and written behind.
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

VOCABULARY = "vocabulary"


@dataclass(frozen=True)
class Offloaded(Step):
    """So many blocks lie in RAM as they are multiplied with, `resident`; the others rest on disk.

    What does not learn stays there as the model's own files hold it, and what learns, unless `learning` stays in RAM,
    with its moments in a file of the run. The vocabulary is the first to be in RAM, or the last one where it learns on
    disk, for it is the largest of all. What was packed for learning is in no file, and stays in RAM.
    """

    paper: ClassVar[str] = "ZeRO-Infinity, Rajbhandari et al. 2021, arXiv:2104.07857"
    facet: ClassVar[Facet] = Facet.PLACE
    resident: int = 0
    learning: bool = False

    def check(self, model: Model, form: Form) -> None:
        how = form.training
        need(how is not None, "nothing of this model is to learn", NotApplicable)
        alone = self.learning or how is None or how.ranks == 1
        need(alone, "what several processes learn together stays in RAM", NotApplicable)
        stays = self.resident >= num_blocks(form)
        free = not self.learning or not _all_change(form)
        need(stays or free, "what learns stays in RAM, and here that is every weight", NotApplicable)

    def promise(self, form: Form) -> Form:
        stay = set(_units(form, self.learning)[: self.resident])
        changed = [self._placed(weight, _unit(weight) in stay, form) for weight in form.weights]
        return replace(form, weights=Weights(changed))

    def _placed(self, weight: WeightForm, stays: bool, form: Form) -> WeightForm:
        if not weight.is_matrix or weight.packed:
            return weight
        if form.training is not None and form.training.changes(weight):
            return replace(weight, format="f32", ram_rows=weight.ram_rows if stays or self.learning else 0)
        computed_in = "f32" if form.training is None else form.training.computed_in
        return replace(weight, format=computed_in) if stays else replace(weight, format=weight.source, ram_rows=0)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.workload.train is not None else ()


def num_blocks(form: Form) -> int:
    """Blocks that `resident` may count: those that are not packed."""
    return len(_units(form, learning=True))


def _units(form: Form, learning: bool) -> list[str]:
    """Blocks in the order in which they come to be in RAM."""
    matrices = [weight for weight in form.weights if weight.is_matrix and not weight.packed]
    names = list(dict.fromkeys(_unit(weight) for weight in matrices))
    how = form.training
    if not learning and how is not None and any(how.changes(one) for one in matrices if _unit(one) == VOCABULARY):
        names.sort(key=lambda name: name == VOCABULARY)
    return names


def _all_change(form: Form) -> bool:
    return all(form.training is not None and form.training.changes(weight) for weight in form.weights)


def _unit(weight: WeightForm) -> str:
    return block_of(weight.name) if "." in weight.name else VOCABULARY
