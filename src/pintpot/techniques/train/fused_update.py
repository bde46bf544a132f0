"""The optimizer's step on a block follows its gradients at once, so that no gradient of the whole model ever exists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.contract.learning import LearningStep
from pintpot.contract.step import Facet
from pintpot.contract.training import TrainingForm


@dataclass(frozen=True)
class FusedUpdate(LearningStep):
    """Of the vocabulary alone gradients wait for the end of the step: its last part of them comes last."""

    paper: ClassVar[str] = "LOMO, Lv et al. 2023, arXiv:2306.09782"
    facet: ClassVar[Facet] = Facet.GRADIENT

    def taught(self, how: TrainingForm) -> TrainingForm:
        return replace(how, fused=True)
