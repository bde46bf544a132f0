"""Round-to-nearest weights in groups of 32 with a float16 scale, symmetric or with a minimum.

The plain uniform quantizer that every later method is measured against (Jacob et al. 2018, arXiv:1712.05877), with one
scale for each group of columns (Shen et al. 2020, arXiv:1909.05840).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.rounding import InOneFormat
from pintpot.contract.step import Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model

BITS = (8, 6, 5, 4, 3, 2)


@dataclass(frozen=True)
class RoundToNearest(InOneFormat):
    """Each group of 32 columns rounded to `bits` bits; `minimum` spends 16 more bits a group on an offset."""

    paper: ClassVar[str] = "Jacob et al. 2018, arXiv:1712.05877"
    bits: int = 4
    minimum: bool = False

    @property
    def format(self) -> str:
        return f"{'aff' if self.minimum else 'sym'}{self.bits}"

    def check(self, model: Model, form: Form) -> None:
        need(self.bits in BITS, f"weights of {self.bits} bits are not to be had; {BITS} are", NotApplicable)
        need(not (self.minimum and self.bits == 8), "8 bits need no minimum", NotApplicable)
        super().check(model, form)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return tuple(
            cls(target, bits, minimum)
            for target in ("blocks", "vocabulary")
            for bits in BITS
            for minimum in (False, True)
            if not (minimum and bits == 8)
        )
