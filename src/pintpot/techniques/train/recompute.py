"""Of the way forward only what each block begins with is kept; on the way back the block is computed again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.contract.learning import PassingStep
from pintpot.contract.step import Facet
from pintpot.contract.training import TrainingForm


@dataclass(frozen=True)
class Recompute(PassingStep):
    """`at_once` of a step's sequences go through a block together, so that only theirs is in memory of its inside.

    The others follow before the block's weights leave, which so pass once in either direction, however few that are.
    """

    paper: ClassVar[str] = "Chen et al. 2016, arXiv:1604.06174"
    facet: ClassVar[Facet] = Facet.ACTIVATIONS

    def taught(self, how: TrainingForm) -> TrainingForm:
        return replace(how, at_once=self.at_once)
