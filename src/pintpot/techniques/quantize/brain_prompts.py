"""Rows of prompts in bfloat16, where the processor multiplies tiles of them.

bfloat16: Kalamkar et al. 2019, arXiv:1905.12322. A tile product sums in float32 over all columns with nothing to do for
each group of a weight's scales, which is expanded once for all rows. So prompts are read faster than in int8, and
rounded less; a step of few rows would wait for the expansion, and keeps its int8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import ActivationForm, Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.formats import encoding
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.program.ops.linear import PLANES, SUFFIXES


@dataclass(frozen=True)
class BrainPrompts(Step):
    """Rows of prompts meet low-bit weights in bfloat16, those of answers in `decode` planes of int8."""

    paper: ClassVar[str] = "A Study of BFLOAT16 for Deep Learning Training, Kalamkar et al. 2019, arXiv:1905.12322"
    facet: ClassVar[Facet] = Facet.ACTIVATIONS
    decode: int = 2

    @property
    def key(self) -> str:
        return f"activation/bfloat16-{self._form.decode}"

    @property
    def prefill_key(self) -> str:
        return "activation/bfloat16"

    @property
    def _form(self) -> ActivationForm:
        return ActivationForm("bfloat16", "int8" if self.decode == 1 else "int8x2")

    def check(self, model: Model, form: Form) -> None:
        need(self.decode in (1, 2), f"activations come in 1 or 2 planes, not {self.decode}", NotApplicable)
        low_bit = any(w.packed and encoding(w.format).kind != "float" for w in form.weights if w.is_matrix)
        need(low_bit, "every weight is kept in floating point and meets rows in float32", NotApplicable)

    def promise(self, form: Form) -> Form:
        return replace(form, activation=self._form)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        """Where such products were measured; one plane for answers where several sequences share each weight."""
        measured = any(rate.what.endswith(SUFFIXES[PLANES["bfloat16"]]) for rate in machine.rates)
        planes = () if not measured else (2, 1) if budget.workload.batch > 1 else (2,)
        return tuple(cls(decode=number) for number in planes)
