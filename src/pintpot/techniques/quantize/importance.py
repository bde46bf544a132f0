"""Rounding to nearest with scales that serve the columns which matter: those whose inputs are large.

Scales and minima of each group minimise the sum of E[x^2] (w - q)^2, the diagonal of the layer's squared error. The
idea is that of AWQ's analysis (Lin et al. 2023, arXiv:2306.00978) and of importance matrices in GGUF quantizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.statistics import SCALES, InputStatistics
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.formats import has_grid, is_lossless
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REMAINS = {
    "sym4": (0.5, 1.0),
}  # fmt: skip
"""As of `Gptq`: measured by `benchmarks/calibration.py`."""


@dataclass(frozen=True)
class ImportanceRounding(Step):
    """Weights of formats with scaled groups, each column weighted by the mean square of its inputs."""

    paper: ClassVar[str] = "Lin et al. 2023, arXiv:2306.00978, section 3; diagonal of the squared error"
    facet: ClassVar[Facet] = Facet.ROUNDING
    needs: ClassVar[frozenset[str]] = frozenset({SCALES})

    def remains(self, weight: WeightForm) -> tuple[float, float]:
        low, high = REMAINS.get(weight.format, (1.0, 1.0))
        return (low, 1.0) if weight.role == "embed" else (low, high)

    def check(self, model: Model, form: Form) -> None:
        rounded = any(
            w.packed and matches(self.target, w.name) and not is_lossless(w.source, w.format)
            for w in form.weights
            if w.is_matrix
        )
        need(rounded, f"no weight in {self.target!r} is rounded, each is kept as its file has it", NotApplicable)

    def round(
        self, weight: WeightForm, values: NDArray[np.float32], inputs: InputStatistics
    ) -> NDArray[np.uint8] | None:
        from pintpot.formats.grid import Grid

        if not has_grid(weight.format):
            return None
        grid = Grid.of(weight.format)
        scales = grid.fit(values, inputs.mean_square)
        return grid.strips(grid.nearest(values, scales), scales)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return (cls(),)
