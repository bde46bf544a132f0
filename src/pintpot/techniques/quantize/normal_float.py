"""NF4: weights rounded to the quantiles of a normal distribution, with scales that are quantized a second time.

4 bits name one of 16 levels, each as likely as the others where weights are drawn from a normal distribution; the
scale of a group takes 8 bits, and 256 scales share a float32 (double quantization).
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

GROUPS = {64: "nf4", 32: "nf4_32"}


@dataclass(frozen=True)
class NormalFloat(InOneFormat):
    """Each group of `group` columns rounded to NF4; 64 is the paper's, 32 take an eighth of a bit more."""

    paper: ClassVar[str] = "QLoRA, Dettmers et al. 2023, arXiv:2305.14314"
    group: int = 64

    @property
    def format(self) -> str:
        return GROUPS.get(self.group, f"nf4_{self.group}")

    def check(self, model: Model, form: Form) -> None:
        need(self.group in GROUPS, f"NF4 comes in groups of {tuple(GROUPS)} columns, not {self.group}", NotApplicable)
        super().check(model, form)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return tuple(cls(target, group) for target in ("blocks", "vocabulary") for group in GROUPS)
