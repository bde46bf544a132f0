"""What steps share by which weights reach their formats: value by value, in one format, or rounded with less harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.step import Facet, SourceRows, Step
from pintpot.errors import NotApplicable, need
from pintpot.formats import is_lossless
from pintpot.model.spec import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Converting(Step):
    """A step of formats that each value reaches by itself: permuted, or rounded to nearest."""

    facet: ClassVar[Facet] = Facet.FORMAT

    def convert(self, weight: WeightForm, rows: SourceRows) -> NDArray[np.uint8] | None:
        from pintpot.formats.convert import convert

        return convert(rows.raw, rows.source, weight.format, rows.columns)


@dataclass(frozen=True)
class InOneFormat(Converting):
    """Every matrix in one format, but those that take no more bytes as they come."""

    @property
    def format(self) -> str:
        """The name of the format."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        return f"{self.target}/{self.format}"

    def check(self, model: Model, form: Form) -> None:
        form.need_rounding(self.target, self.format)

    def promise(self, form: Form) -> Form:
        return form.rounded(self.target, self.format)


@dataclass(frozen=True)
class GentlerRounding(Step):
    """A step that rounds what a format promises with less harm than to nearest.

    `remaining` is what was measured by format (`benchmarks/calibration.py`), low..high of the share of the nats that is
    left; of formats that it lacks nothing is claimed.
    """

    facet: ClassVar[Facet] = Facet.ROUNDING
    remaining: ClassVar[Mapping[str, tuple[float, float]]]

    def remains(self, weight: WeightForm) -> tuple[float, float]:
        low, high = self.remaining.get(weight.format, (1.0, 1.0))
        if weight.experts > 1:
            return 1.0, 1.0
        # Of a table that words are looked up in, rows meet nothing; it may be the head as well.
        return (low, 1.0) if weight.role == "embed" else (low, high)

    def check(self, model: Model, form: Form) -> None:
        rounded = any(
            w.packed and matches(self.target, w.name) and not is_lossless(w.source, w.format)
            for w in form.weights
            if w.is_matrix
        )
        need(rounded, f"no weight in {self.target!r} is rounded, each is kept as its file has it", NotApplicable)
