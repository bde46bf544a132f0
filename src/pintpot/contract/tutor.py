"""Tutors: what a technique does while a model learns, each thing at its place in a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Tutor:
    """Sits beside a model that learns. Every method does nothing by default; `Step.install` puts one into the slots.

    All must follow from what `tensors` holds and from the step: a start that goes on has nothing else. One that
    `wants_teacher` is told what the model as it came holds after every block.
    """

    wants_teacher: bool = False

    def begin(self, values: Mapping[str, torch.Tensor]) -> None:
        """Before the first step, and before a checkpoint is loaded: what learns, by name; it may change in place."""

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What a start that goes on must have, changed in place only."""
        return {}

    def resting(self, step: int) -> frozenset[str]:
        """Blocks of which nothing learns in this step, counted from 0."""
        return frozenset()

    def met(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """As a weight meets rows, in its own memory or another; its gradient is taken by what this gives."""
        return value

    def graded(self, name: str, value: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        """The gradient along which something is updated."""
        return grad

    def left(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A weight as it is left behind when all steps are taken. Raises Diverged for what it must not be."""
        return self.met(name, value)

    def pulled(self, states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor | None:
        """By the states [T, D] after a block, beside those of the model as it came: a gradient more; None for none."""
        return None


ALONE = Tutor()
"""Says nothing."""


class Tutors(Tutor):
    """Several as one, asked in their order."""

    def __init__(self, tutors: Iterable[Tutor] = ()) -> None:
        self._tutors = tuple(tutors)
        self.wants_teacher = any(one.wants_teacher for one in self._tutors)

    def begin(self, values: Mapping[str, torch.Tensor]) -> None:
        for one in self._tutors:
            one.begin(values)

    def tensors(self) -> Mapping[str, torch.Tensor]:
        return {name: tensor for one in self._tutors for name, tensor in one.tensors().items()}

    def resting(self, step: int) -> frozenset[str]:
        return frozenset[str]().union(*(one.resting(step) for one in self._tutors))

    def met(self, name: str, value: torch.Tensor) -> torch.Tensor:
        for one in self._tutors:
            value = one.met(name, value)
        return value

    def graded(self, name: str, value: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        for one in self._tutors:
            grad = one.graded(name, value, grad)
        return grad

    def left(self, name: str, value: torch.Tensor) -> torch.Tensor:
        for one in self._tutors:
            value = one.left(name, value)
        return value

    def pulled(self, states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor | None:
        found = [grad for one in self._tutors if (grad := one.pulled(states, wanted)) is not None]
        return None if not found else sum(found[1:], found[0])
