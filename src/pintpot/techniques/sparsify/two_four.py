"""Sparse fine-tuning: what is pruned once stays zero, while all other weights learn to do without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pintpot.budget import Train
from pintpot.contract.form import Form
from pintpot.contract.learning import LearningStep
from pintpot.contract.slots import Slots
from pintpot.contract.step import Facet
from pintpot.contract.tutor import Tutor
from pintpot.errors import Diverged, NotApplicable, need
from pintpot.model.spec import Model

if TYPE_CHECKING:
    import torch

KEPT, HALF = "kept", "2:4"


@dataclass(frozen=True)
class TwoFour(LearningStep):
    """Of every four weights side by side in a row of a block's matrix the two smallest are zero from the start (`2:4`).

    With `kept` nothing is pruned: the zeros that the model came with, wherever they are, stay what they are.
    """

    paper: ClassVar[str] = "Mishra et al. 2021, arXiv:2104.08378"
    facet: ClassVar[Facet] = Facet.SPARSITY
    pattern: str = HALF

    def check(self, model: Model, form: Form) -> None:
        super().check(model, form)
        need(self.pattern in (HALF, KEPT), f"zeros are {HALF} or {KEPT}, not {self.pattern!r}", NotApplicable)
        how = form.training
        pruned = [w for w in form.weights if w.is_matrix and "." in w.name and how is not None and how.changes(w)]
        need(bool(pruned), "no matrix of a block learns itself, and adapters would fill zeros (full)", NotApplicable)
        odd = [w.name for w in pruned if w.shape[1] % 4]
        need(self.pattern == KEPT or not odd, f"rows of {', '.join(odd[:3])} are no whole fours", NotApplicable)
        gradients = how is not None and not how.distance
        need(gradients, "steps from losses alone move what is zero as well", NotApplicable)

    @classmethod
    def choices(cls, train: Train) -> tuple[Self, ...]:
        return ()

    def install(self, slots: Slots) -> None:
        slots.tutors.append(Zeros(self.pattern))


class Zeros(Tutor):
    """No gradient reaches what is zero, so it has no moments either, and every step leaves it there."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def begin(self, values: Mapping[str, torch.Tensor]) -> None:
        from pintpot.kernels.torch.two_four import smaller_half

        for name, value in values.items():
            if self._pattern == HALF and _prunes(name, value):
                value.masked_fill_(smaller_half(value), 0.0)

    def graded(self, name: str, value: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        return grad.masked_fill(value == 0, 0.0) if _prunes(name, value) else grad

    def left(self, name: str, value: torch.Tensor) -> torch.Tensor:
        from pintpot.kernels.torch.two_four import is_two_four

        sound = self._pattern != HALF or not _prunes(name, value) or is_two_four(value)
        need(sound, f"{name} has more than two of four that are not zero", Diverged)
        return value


def _prunes(name: str, value: torch.Tensor) -> bool:
    return "." in name and value.dim() == 2
