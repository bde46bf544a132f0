"""Which weights of a plan go through calibration, and which steps see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.statistics import CROSSED, GRADIENTS, MOMENTS, InputStatistics, Sensitivity
from pintpot.contract.step import TRANSFORMS, Facet, Step
from pintpot.formats import encoding, is_lossless

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Chosen:
    """The steps of a plan that ask for statistics, transform floats or round by more than the value itself."""

    form: Form
    transforms: tuple[Step, ...]
    roundings: tuple[Step, ...]
    outliers: tuple[Step, ...] = ()
    weighings: tuple[Step, ...] = ()

    @classmethod
    def of(cls, form: Form, steps: tuple[Step, ...]) -> Chosen:
        transforms = tuple(step for step in steps if step.facet in TRANSFORMS)
        outliers, roundings, weighings = (
            tuple(step for step in steps if step.facet == facet)
            for facet in (Facet.OUTLIERS, Facet.ROUNDING, Facet.WEIGHING)
        )
        return cls(form, transforms, roundings, outliers, weighings)

    def __bool__(self) -> bool:
        return bool(self.transforms or self.roundings or self.outliers)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them, in the order in which they apply."""
        return self.weighings + self.transforms + self.outliers + self.roundings

    @property
    def gathers(self) -> bool:
        """Whether any step has to know what meets the weights."""
        return bool(self.roundings) or any(step.wants for step in self.transforms + self.outliers)

    @property
    def senses(self) -> bool:
        """Whether any step has to know how much the loss moves with words and with pictures."""
        return self.gathers and any(GRADIENTS in step.wants for step in self.weighings)

    def counts(self, names: Sequence[str], found: Sensitivity) -> tuple[float, float] | None:
        """How often rows of words and of pictures count that meet these weights, which share them; None: once each."""
        steps = (step for step in reversed(self.weighings) if any(matches(step.target, name) for name in names))
        return next((counts for step in steps if (counts := step.counts(found)) is not None), None)

    def changes(self, name: str) -> bool:
        """Whether the floats of this weight may be others than its file's."""
        return any(matches(step.target, name) for step in self.transforms)

    def rounding(self, weight: WeightForm) -> tuple[Step, ...]:
        """The steps that round this matrix, the one that decides first; nobody knows what each expert meets."""
        if weight.experts > 1:
            return ()
        if is_lossless(weight.source, weight.format) and not self.changes(weight.name):
            return ()
        return tuple(step for step in reversed(self.roundings) if matches(step.target, weight.name))

    def prepares(self, weight: WeightForm) -> bool:
        """Whether this weight is rounded while calibrating, and not while packing."""
        return self.changes(weight.name) or (weight.is_matrix and bool(self.rounding(weight) or self._apart(weight)))

    def columns_apart(self, names: Sequence[str], inputs: InputStatistics) -> NDArray[np.int64] | None:
        """Which columns of these weights, which share an input, are kept beside their grids; None where none are."""
        weights = [self.form.weights.by_name[name] for name in names]
        if not any(self._apart(weight) for weight in weights):
            return None
        found = (step.columns_apart(weights, inputs) for step in reversed(self.outliers))
        return next((columns for columns in found if columns is not None), None)

    @staticmethod
    def _apart(weight: WeightForm) -> int:
        return encoding(weight.format).num_apart

    def needs_moment(self, names: tuple[str, ...]) -> bool:
        """Whether a step that rounds one of these weights wants the second moment of what meets them."""
        return self._needs(MOMENTS, names)

    def needs_crossed(self, names: tuple[str, ...]) -> bool:
        """Whether one wants to know what meets them in the unrounded network."""
        return self._needs(CROSSED, names)

    @property
    def two_streams(self) -> bool:
        """Whether the unrounded network is walked beside the rounded one."""
        return any(CROSSED in step.wants for step in self.roundings)

    def _needs(self, what: str, names: tuple[str, ...]) -> bool:
        weights = (self.form.weights.by_name[name] for name in names)
        return any(what in step.wants for weight in weights for step in self.rounding(weight))
