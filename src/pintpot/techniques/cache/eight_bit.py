"""The key-value cache in 8 bits: one float16 scale for 32 values of a head.

Group-wise rounding of the cache: FlexGen (Sheng et al. 2023, arXiv:2303.06865).
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


@dataclass(frozen=True)
class EightBitCache(Step):
    """Keys and values are stored as 8-bit integers."""

    paper: ClassVar[str] = "FlexGen, Sheng et al. 2023, arXiv:2303.06865"
    facet: ClassVar[Facet] = Facet.CACHE_FORMAT

    @property
    def key(self) -> str:
        return "cache/sym8c"

    def check(self, model: Model, form: Form) -> None:
        need(model.language is not None, "the model keeps no cache", NotApplicable)
        config = model.part("language").config
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        need(head_dim % 32 == 0, f"heads of {head_dim} are no multiple of the 32 that share a scale", NotApplicable)

    def promise(self, form: Form) -> Form:
        return replace(form, cache=replace(form.cache, format="sym8c"))

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return () if model.language is None else (cls(),)
