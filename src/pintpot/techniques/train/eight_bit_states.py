"""The optimizer's two means in 8 bits: a byte a value, and a scale for every block of them that lie in a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.contract.learning import LearningStep
from pintpot.contract.step import Facet
from pintpot.contract.training import DYNAMIC8, TrainingForm


@dataclass(frozen=True)
class EightBitStates(LearningStep):
    """AdamW whose means rest as codes, finest near zero and near a block's largest, between steps that are float32.

    Matrices have them so; of norms and biases, which are few, both means stay in float32.
    """

    paper: ClassVar[str] = "Dettmers et al. 2021, arXiv:2110.02861"
    facet: ClassVar[Facet] = Facet.OPTIMIZER

    def taught(self, how: TrainingForm) -> TrainingForm:
        return replace(how, states=DYNAMIC8)
