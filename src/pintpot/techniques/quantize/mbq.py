"""Rows of pictures and of words count, in what rounding learns from, by how much the loss moves with each.

MBQ: Li et al. 2024, arXiv:2412.19509. A picture gives a vision-language model hundreds of rows, and the loss moves less
with each of them than with a word's. So the error of what a layer gives is weighed: once for a word, and for a row of a
picture by the mean |d loss / d output| over pictures' rows divided by that over words'. Those gradients are exact, of
the unpacked network in float32, for the cross entropy of the words that follow, over prompts with pictures. The paper
searches scales of channels by that error; here the weights enter the statistics of what meets each op, so that
whatever rounds or transforms by statistics (GPTQ, importance, AWQ) minimises the weighed squared error. One ratio is
taken for each linear op, where the paper takes one for attention and one for the feed-forward network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.statistics import GRADIENTS, Sensitivity
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class Mbq(Step):
    """Modality-balanced statistics; offered to who asks for it, for what it brings was not shown on trained weights."""

    paper: ClassVar[str] = "MBQ, Li et al. 2024, arXiv:2412.19509"
    facet: ClassVar[Facet] = Facet.WEIGHING
    needs: ClassVar[frozenset[str]] = frozenset({GRADIENTS})

    def check(self, model: Model, form: Form) -> None:
        alone = f"{model.name} sees no pictures, so there are no rows of them to weigh against those of words"
        need(model.kind == "vlm", alone, NotApplicable)

    def counts(self, found: Sensitivity) -> tuple[float, float] | None:
        return None if found.words == 0 else (1.0, found.pictures / found.words)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),) if budget.balanced and model.kind == "vlm" else ()
