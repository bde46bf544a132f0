"""Weights of which two of four are zero, packed without the zeros: two codes of every four, and which two they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.rounding import InOneFormat
from pintpot.contract.step import SourceRows, Step
from pintpot.contract.two_four import not_two_four, pruned
from pintpot.errors import BadInput, NotApplicable, need
from pintpot.formats.registry import TWO_FOUR
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BITS = (8, 6, 4)


@dataclass(frozen=True)
class TwoOfFour(InOneFormat):
    """What is kept in `bits` bits, each group of 32 columns with a scale: the values of `symB`, in 3 bits fewer of 8.5.

    Nothing is pruned here: a model whose blocks are not 2:4 is refused. The vocabulary, if it is among the target, is
    rounded to as many bits with its zeros.
    """

    paper: ClassVar[str] = "Mishra et al. 2021, arXiv:2104.08378"
    bits: int = 6

    @property
    def _dense(self) -> str:
        return f"sym{self.bits}"

    @property
    def format(self) -> str:
        return f"{self._dense}{TWO_FOUR}"

    @property
    def key(self) -> str:
        return f"{self.target}/{self._dense}"

    def check(self, model: Model, form: Form) -> None:
        need(self.bits in BITS, f"2:4 weights of {self.bits} bits are not to be had; {BITS} are", NotApplicable)
        inside = any(w.is_matrix and matches(self.target, w.name) and pruned(w.name) for w in form.weights)
        need(inside, f"no matrix in {self.target!r} is inside a block, and no other is 2:4", NotApplicable)
        why = not_two_four(model)
        need(not why, f"the model is not 2:4: {why}; `pintpot tune --sparse` makes one that is", NotApplicable)
        form.need_rounding(self.target, self.format)

    def promise(self, form: Form) -> Form:
        whole = form.rounded(self.target, self._dense)
        kept = {
            weight.name: self.format
            for weight in form.rounded(self.target, self.format).weights
            if weight.format == self.format and pruned(weight.name)
        }
        return whole.packed_each(kept)

    def convert(self, weight: WeightForm, rows: SourceRows) -> NDArray[np.uint8] | None:
        try:
            return super().convert(weight, rows)
        except BadInput as error:
            raise BadInput(f"{weight.name}: {error}") from error

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return () if not_two_four(model) else tuple(cls("blocks", bits) for bits in BITS)
