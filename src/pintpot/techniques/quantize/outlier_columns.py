"""Columns of weights that the largest activations meet, kept in 16 bits beside the grid and multiplied in floats.

LLM.int8(): Dettmers et al. 2022, arXiv:2208.07339, whose outliers are found anew in every row. Here calibration finds
them once, as QUIK (Ashkboos et al. 2023, arXiv:2310.09259) and Atom (Zhao et al. 2023, arXiv:2310.19102) do: these
columns then lie behind each strip, and the rows that meet the grid have zeros there, so that neither the scales of its
groups nor those of activations have to cover them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.statistics import SCALES, InputStatistics
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.formats import can_keep_apart, encoding, is_lossless
from pintpot.model.spec import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class OutlierColumns(Step):
    """Of every low-bit weight inside blocks the `columns` columns whose inputs have the largest mean squares."""

    paper: ClassVar[str] = "LLM.int8(), Dettmers et al. 2022, arXiv:2208.07339"
    facet: ClassVar[Facet] = Facet.OUTLIERS
    needs: ClassVar[frozenset[str]] = frozenset({SCALES})
    target: str = "blocks"
    columns: int = 8

    def check(self, model: Model, form: Form) -> None:
        need(self.target == "blocks", f"columns are kept apart inside blocks, not in {self.target!r}", NotApplicable)
        low_bit = [w for w in form.weights if w.is_matrix and matches(self.target, w.name) and _is_low_bit(w)]
        need(
            bool(low_bit), f"no weight in {self.target!r} is kept in low bits, so nothing is lost in any", NotApplicable
        )
        kept = [w.name for w in low_bit if is_lossless(w.source, w.format)]
        need(not kept, f"{', '.join(kept[:3])} stay as their file has rounded them, all columns alike", NotApplicable)
        whole = [f"{w.name} in {w.format}" for w in low_bit if not can_keep_apart(w.format)]
        need(not whole, f"no columns can be kept apart from {', '.join(whole[:3])}", NotApplicable)
        most = min(w.shape[1] for w in low_bit) // 2
        need(1 <= self.columns <= most, f"of {2 * most} columns {self.columns} cannot be kept apart", NotApplicable)

    def promise(self, form: Form) -> Form:
        return form.with_columns_apart(self.target, self.columns)

    def columns_apart(self, weights: Sequence[WeightForm], inputs: InputStatistics) -> NDArray[np.int64] | None:
        import numpy as np

        if not any(encoding(weight.format).num_apart for weight in weights):
            return None
        return np.sort(np.argsort(-inputs.mean_square, kind="stable")[: self.columns])


def _is_low_bit(weight: WeightForm) -> bool:
    return weight.packed and weight.experts == 1 and encoding(weight.format).kind != "float"
