"""Weights as the model's own file holds them: GGUF blocks permuted into tiles without a second rounding.

Block formats: the GGUF specification (ggml). Float weights keep their float format. Encodings for which there is no
kernel (Q2_K, Q3_K, Q5_K) are expanded to 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.rounding import Converting
from pintpot.contract.step import Step
from pintpot.formats import encoding
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class AsStored(Converting):
    """Keep each weight in the format it came in."""

    paper: ClassVar[str] = "GGUF: the ggml file format specification"

    def promise(self, form: Form) -> Form:
        return form.packed(self.target, lambda source: encoding(source).packed_as)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return cls("blocks"), cls("vocabulary")
