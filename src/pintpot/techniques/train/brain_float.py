"""Products in bfloat16 while a model learns: rows and weights are rounded as they meet, all else is float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.contract.learning import LearningStep
from pintpot.contract.step import Facet
from pintpot.contract.training import TrainingForm


@dataclass(frozen=True)
class BrainFloat(LearningStep):
    """Weights that do not learn take half the memory, and some processors have faster instructions for it."""

    paper: ClassVar[str] = "Kalamkar et al. 2019, arXiv:1905.12322"
    facet: ClassVar[Facet] = Facet.FUNCTIONS

    def taught(self, how: TrainingForm) -> TrainingForm:
        return replace(how, computed_in="bf16")
