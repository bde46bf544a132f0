"""AdamW: steps by the mean of past gradients over the root of the mean of their squares; weights decay beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.contract.learning import LearningStep
from pintpot.contract.step import Facet
from pintpot.contract.training import TrainingForm


@dataclass(frozen=True)
class AdamW(LearningStep):
    """Both means in float32 for everything that learns."""

    paper: ClassVar[str] = "Loshchilov and Hutter 2017, arXiv:1711.05101"
    facet: ClassVar[Facet] = Facet.OPTIMIZER

    def taught(self, how: TrainingForm) -> TrainingForm:
        return replace(how, states="f32")
