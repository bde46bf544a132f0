"""A prompt is read in chunks of so many tokens: wide chunks share each weight, narrow ones need small buffers.

Chunked prefill: Sarathi (Agrawal et al. 2023, arXiv:2308.16369).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model

WIDTHS = (512, 256, 128, 64, 32, 16)
MOST_BESIDE_OTHERS = 256
"""While a chunk is read no other answer goes on. With 16 clients 512 tokens brought no more words a second, and the
longest waits between two of them grew by half (LOG.md)."""


@dataclass(frozen=True)
class PrefillChunk(Step):
    """At most `tokens` tokens of a prompt are computed side by side."""

    paper: ClassVar[str] = "Sarathi, Agrawal et al. 2023, arXiv:2308.16369"
    facet: ClassVar[Facet] = Facet.BATCHING
    tokens: int = 512

    def check(self, model: Model, form: Form) -> None:
        need(model.language is not None, "the model reads no prompts", NotApplicable)
        need(self.tokens >= 1, "a chunk holds at least one token", NotApplicable)

    def promise(self, form: Form) -> Form:
        return replace(form, chunk=self.tokens)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        if model.language is None:
            return ()
        load = budget.workload
        most = load.context if load.batch == 1 else min(load.context, MOST_BESIDE_OTHERS)
        widths = [width for width in WIDTHS if width <= most] or [load.context]
        return tuple(cls(tokens=width) for width in widths)
