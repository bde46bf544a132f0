"""Activations in int8 groups of 32 columns, rounded as they arrive, so that products run in integers.

Dynamic rounding of each row: ZeroQuant (Yao et al. 2022, arXiv:2206.01861). A second plane rounds what the first left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.formats import encoding
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model


@dataclass(frozen=True)
class Int8Activations(Step):
    """Rows meet low-bit weights as `planes` int8 planes with one scale for each group of 32."""

    paper: ClassVar[str] = "ZeroQuant, Yao et al. 2022, arXiv:2206.01861"
    facet: ClassVar[Facet] = Facet.ACTIVATIONS
    planes: int = 1

    @property
    def activation(self) -> str:
        return "int8" if self.planes == 1 else "int8x2"

    @property
    def key(self) -> str:
        return f"activation/{self.activation}"

    def check(self, model: Model, form: Form) -> None:
        need(self.planes in (1, 2), f"activations come in 1 or 2 planes, not {self.planes}", NotApplicable)
        low_bit = any(w.packed and encoding(w.format).kind != "float" for w in form.weights if w.is_matrix)
        need(low_bit, "every weight is kept in floating point, so no product could run in integers", NotApplicable)

    def promise(self, form: Form) -> Form:
        return replace(form, activation=self.activation)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return cls(planes=1), cls(planes=2)
