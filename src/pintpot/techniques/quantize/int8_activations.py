"""Activations in int8 groups of 32 columns, rounded as they arrive, so that products run in integers.

Dynamic rounding of each row: ZeroQuant (Yao et al. 2022, arXiv:2206.01861). A second plane rounds what the first left.
Prompts have many rows for each weight and are bound by arithmetic, so a plane more costs them nearly twice the time; a
step of one sequence waits for the weights, and has its second plane for nearly nothing.
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


@dataclass(frozen=True)
class Int8Activations(Step):
    """Rows meet low-bit weights as one or two int8 planes with one scale for each group of 32.

    `prefill` planes while the blocks read a prompt, `decode` planes for the words of answers.
    """

    paper: ClassVar[str] = "ZeroQuant, Yao et al. 2022, arXiv:2206.01861"
    facet: ClassVar[Facet] = Facet.ACTIVATIONS
    prefill: int = 1
    decode: int = 2

    @property
    def key(self) -> str:
        """An answer attends to the prompt's keys and values, so what it loses depends on both stages."""
        form = self._form
        return self.prefill_key if form.prefill == form.decode else f"activation/{form.prefill}-{form.decode}"

    @property
    def prefill_key(self) -> str:
        return f"activation/{self._form.prefill}"

    @property
    def _form(self) -> ActivationForm:
        return ActivationForm(*("int8" if planes == 1 else "int8x2" for planes in (self.prefill, self.decode)))

    def check(self, model: Model, form: Form) -> None:
        for stage, planes in (("prefill", self.prefill), ("decode", self.decode)):
            need(planes in (1, 2), f"{stage}: activations come in 1 or 2 planes, not {planes}", NotApplicable)
        low_bit = any(w.packed and encoding(w.format).kind != "float" for w in form.weights if w.is_matrix)
        need(low_bit, "every weight is kept in floating point, so no product could run in integers", NotApplicable)

    def promise(self, form: Form) -> Form:
        return replace(form, activation=self._form)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        """One plane for answers too is a gain only where several sequences share each weight that is read."""
        fastest = (cls(prefill=1, decode=1),) if budget.workload.batch > 1 else ()
        return cls(), cls(prefill=2, decode=2), *fastest
