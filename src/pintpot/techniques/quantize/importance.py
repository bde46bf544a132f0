"""Rounding to nearest with scales that serve the columns which matter: those whose inputs are large.

Scales and minima of each group minimise the sum of E[x^2] (w - q)^2, the diagonal of the layer's squared error. The
idea is that of AWQ's analysis (Lin et al. 2023, arXiv:2306.00978) and of importance matrices in GGUF quantizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import WeightForm
from pintpot.contract.rounding import GentlerRounding
from pintpot.contract.statistics import SCALES, InputStatistics
from pintpot.contract.step import Step
from pintpot.formats import has_grid
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ImportanceRounding(GentlerRounding):
    """Weights of formats with scaled groups, each column weighted by the mean square of its inputs."""

    paper: ClassVar[str] = "Lin et al. 2023, arXiv:2306.00978, section 3; diagonal of the squared error"
    needs: ClassVar[frozenset[str]] = frozenset({SCALES})
    remaining: ClassVar[Mapping[str, tuple[float, float]]] = {"sym4": (0.5, 1.0)}

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
