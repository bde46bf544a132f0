"""A window over the cache with attention sinks: only the first few and the latest positions stay.

StreamingLLM (Xiao et al. 2023, arXiv:2309.17453).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import PAGE_TOKENS, Form
from pintpot.contract.slots import Slots
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class SinkWindow(Step):
    """A query sees the first `sinks` positions and the last `window`; the pages between are given back.

    What lay between is forgotten, which no mean over short texts shows: it is weighed only where somebody allows it.
    """

    paper: ClassVar[str] = "StreamingLLM, Xiao et al. 2023, arXiv:2309.17453"
    facet: ClassVar[Facet] = Facet.CACHE
    window: int = 1024
    sinks: int = 4

    @property
    def key(self) -> str:
        return "cache/window"

    def check(self, model: Model, form: Form) -> None:
        need(model.language is not None, "the model keeps no cache", NotApplicable)
        need(self.window >= PAGE_TOKENS, f"a window of {self.window} is under one page of {PAGE_TOKENS}", NotApplicable)
        need(self.window + self.sinks < model.context, "the window holds the model's whole context", NotApplicable)
        own = model.part("language").config.get("sliding_window") or 0
        need(not own or own > self.window, f"the model's own window of {own} is no larger", NotApplicable)

    def promise(self, form: Form) -> Form:
        return replace(form, cache=replace(form.cache, window=self.window, sinks=self.sinks))

    def install(self, slots: Slots) -> None:
        def keep(position: int) -> tuple[tuple[int, int], ...]:
            first = max(0, position - self.window + 1)
            return ((0, position),) if first <= self.sinks else ((0, self.sinks), (first, position))

        slots.cache_keep = keep

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        window = budget.workload.context // 2 // PAGE_TOKENS * PAGE_TOKENS
        return (cls(window=window),) if model.language and budget.windowed and window >= PAGE_TOKENS else ()
