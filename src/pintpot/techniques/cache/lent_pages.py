"""Sequences share a cache with pages for the length that they are expected to have, not for whole contexts.

vLLM (Kwon et al. 2023, arXiv:2309.06180).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import PAGE_TOKENS, Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class LentPages(Step):
    """There are pages for `tokens` positions of each sequence in the mean, and for one whole context at least.

    No value changes. Where pages run out somebody stops and goes on later, which takes time that no price foresees: it
    is weighed only where somebody allows it.
    """

    paper: ClassVar[str] = "vLLM, Kwon et al. 2023, arXiv:2309.06180"
    facet: ClassVar[Facet] = Facet.CACHE
    tokens: int = 1024

    def check(self, model: Model, form: Form) -> None:
        need(model.language is not None, "the model keeps no cache", NotApplicable)
        need(self.tokens >= PAGE_TOKENS, f"{self.tokens} positions are under one page of {PAGE_TOKENS}", NotApplicable)

    def promise(self, form: Form) -> Form:
        return replace(form, cache=replace(form.cache, lent=self.tokens))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        work = budget.workload
        # Guesses and the last word begin a page more.
        pages = -(-min(work.context, work.prompt + work.output) // PAGE_TOKENS) + 1
        fewer = work.batch > 1 and pages < -(-work.context // PAGE_TOKENS)
        return (cls(tokens=pages * PAGE_TOKENS),) if model.language and budget.lending and fewer else ()
