"""Gradient filtering: convolutions go back by the means of patches, so that fewer places are multiplied with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from pintpot.budget import Train
from pintpot.contract.form import Form
from pintpot.contract.learning import LearningStep
from pintpot.contract.slots import Slots
from pintpot.contract.step import Facet
from pintpot.contract.training import TrainingForm
from pintpot.errors import NotApplicable, need
from pintpot.model.adapted import recorded_calls
from pintpot.model.spec import FAMILY_OF_MODULES, Model
from pintpot.program.filtering import CONVOLUTION, SIGNS, why_not
from pintpot.program.spec import Op, Work


@dataclass(frozen=True)
class GradientFilter(LearningStep):
    """The gradient of what a convolution gave is replaced by its means over patches of `patch` x `patch` places.

    All behind that is exact, unlike in the paper, which also lets all places of a kernel have the same gradient.
    Convolutions with groups, and those whose places are no whole patches, go back as ever (`program.filtering`).
    Of an input that nobody else keeps sums are kept where these are less, of the ReLU before them where it was above 0.
    """

    paper: ClassVar[str] = "Gradient Filtering, Yang et al. 2023, arXiv:2301.00330"
    facet: ClassVar[Facet] = Facet.FILTERING
    patch: int = 4

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        need(self.patch >= 2, f"patches of {self.patch} x {self.patch} places are what was there before", NotApplicable)
        modules = all(part.family == FAMILY_OF_MODULES for part in model.parts)
        some = modules and CONVOLUTION in recorded_calls(model)
        need(some, f"{model.name} has no convolution in what learns", NotApplicable)

    def taught(self, how: TrainingForm) -> TrainingForm:
        return replace(how, patch=self.patch)

    @classmethod
    def choices(cls, train: Train) -> tuple[Self, ...]:
        return ()

    def told(self, work: Work) -> tuple[str, ...]:
        ops = [op for one in work.stage("ask").programs for op in one.ops if op.get("call") == CONVOLUTION]
        left = Counter(why for op in ops if (why := why_not(op, self.patch)))
        some = f"{len(ops) - sum(left.values())} of {len(ops)} convolutions are filtered"
        reasons = ", ".join(f"{count} with {why}" for why, count in left.most_common())
        return (f"{some}; not {reasons}" if reasons else some,)

    def install(self, slots: Slots) -> None:
        slots.calls[CONVOLUTION] = self._convolution
        slots.calls |= dict.fromkeys(SIGNS, _bounded)

    def _convolution(self, op: Op) -> Callable[..., Any] | None:
        from pintpot.kernels.torch.filtered import convolution

        return convolution(op, self.patch) if op.get("filtered") else None


def _bounded(op: Op) -> Callable[..., Any] | None:
    from pintpot.kernels.torch.filtered import bounded

    return bounded if op.get("signs") else None
