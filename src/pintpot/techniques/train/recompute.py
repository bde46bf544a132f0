"""Of the way forward only what each block begins with is kept; on the way back the block is computed again."""

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
class Recompute(Step):
    """`at_once` of a step's sequences go through a block together, so that only theirs is in memory of its inside.

    The others follow before the block's weights leave, which so pass once in either direction, however few that are.
    """

    paper: ClassVar[str] = "Chen et al. 2016, arXiv:1604.06174"
    facet: ClassVar[Facet] = Facet.ACTIVATIONS
    at_once: int = 1

    def check(self, model: Model, form: Form) -> None:
        need(form.training is not None, "nothing of this model is to learn", NotApplicable)
        need(self.at_once >= 1, f"{self.at_once} sequences cannot be computed at once", NotApplicable)

    def promise(self, form: Form) -> Form:
        return form if form.training is None else replace(form, training=replace(form.training, at_once=self.at_once))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        train = budget.workload.train
        if train is None:
            return ()
        counts = [train.sequences]
        while counts[-1] > 1:
            counts.append(-(-counts[-1] // 2))
        return tuple(cls(at_once=count) for count in counts)
