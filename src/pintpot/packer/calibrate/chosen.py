"""Which weights of a plan go through calibration, and which steps see them."""

from __future__ import annotations

from dataclasses import dataclass

from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.statistics import CROSSED, MOMENTS
from pintpot.contract.step import Facet, Step
from pintpot.formats import is_lossless


@dataclass(frozen=True)
class Chosen:
    """The steps of a plan that ask for statistics, transform floats or round by more than the value itself."""

    form: Form
    transforms: tuple[Step, ...]
    roundings: tuple[Step, ...]

    @classmethod
    def of(cls, form: Form, steps: tuple[Step, ...]) -> Chosen:
        transforms = tuple(step for step in steps if step.facet == Facet.TRANSFORM)
        return cls(form, transforms, tuple(step for step in steps if step.facet == Facet.ROUNDING))

    def __bool__(self) -> bool:
        return bool(self.transforms or self.roundings)

    @property
    def gathers(self) -> bool:
        """Whether any step has to know what meets the weights."""
        return bool(self.roundings) or any(step.wants for step in self.transforms)

    def changes(self, name: str) -> bool:
        """Whether the floats of this weight may be others than its file's."""
        return any(matches(step.target, name) for step in self.transforms)

    def rounding(self, weight: WeightForm) -> tuple[Step, ...]:
        """The steps that round this matrix, the one that decides first."""
        if is_lossless(weight.source, weight.format) and not self.changes(weight.name):
            return ()
        return tuple(step for step in reversed(self.roundings) if matches(step.target, weight.name))

    def prepares(self, weight: WeightForm) -> bool:
        """Whether this weight is rounded while calibrating, and not while packing."""
        return self.changes(weight.name) or (weight.is_matrix and bool(self.rounding(weight)))

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
