"""The frame of every step about learning: it says how `TrainingForm` changes, and applies where something learns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from pintpot.budget import Budget, Train
from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.contract.training import TrainingForm
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class LearningStep(Step):
    """Offered once where something learns; a technique with knobs to choose, or for who asks, says so in `choices`."""

    def taught(self, how: TrainingForm) -> TrainingForm:
        """What this step makes of the way in which a model learns."""
        return how

    @classmethod
    def choices(cls, train: Train) -> tuple[Self, ...]:
        """Knobs worth a price, the likeliest first."""
        return (cls(),)

    def check(self, model: Model, form: Form) -> None:
        need(form.training is not None, "nothing of this model is to learn", NotApplicable)

    def promise(self, form: Form) -> Form:
        return form if form.training is None else replace(form, training=self.taught(form.training))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        train = budget.workload.train
        return () if train is None else cls.choices(train)


@dataclass(frozen=True)
class PassingStep(LearningStep):
    """`at_once` of a step's sequences go through a block together: all of them, or half as many, and so on to one."""

    at_once: int = 1

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        need(self.at_once >= 1, f"{self.at_once} sequences cannot be computed at once", NotApplicable)

    @classmethod
    def choices(cls, train: Train) -> tuple[Self, ...]:
        counts = [train.sequences]
        while counts[-1] > 1:
            counts.append(-(-counts[-1] // 2))
        return tuple(cls(at_once=count) for count in counts)
