"""MXFP4 and NVFP4: weights as floats of 4 bits (E2M1) in small blocks, each with a scale of one byte.

MXFP4 has a power of two for 32 columns; NVFP4 a float of 8 bits (E4M3) for 16, in units of a float32.
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

FORMATS = ("mxfp4", "nvfp4")


@dataclass(frozen=True)
class MicroScaling(InOneFormat):
    """Each block rounded to `format`, its scale chosen by the squared error."""

    paper: ClassVar[str] = "OCP Microscaling Formats v1.0; Rouhani et al. 2023, arXiv:2310.10537"
    format: str = "mxfp4"

    def check(self, model: Model, form: Form) -> None:
        need(self.format in FORMATS, f"a micro-scaling format is one of {FORMATS}, not {self.format}", NotApplicable)
        super().check(model, form)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return tuple(cls(target, format) for target in ("blocks", "vocabulary") for format in FORMATS)
