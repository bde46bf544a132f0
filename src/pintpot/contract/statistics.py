"""What calibration saw: the rows that meet a weight, and one block of a network with what was seen of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pintpot.contract.form import WeightForm
from pintpot.program.spec import Op

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Order = NDArray[np.int64]

MOMENTS = "moments"
"""A step that names this in its `needs` is given second moments [K, K]."""
CROSSED = "crossed"
"""A step that names this is also told what the same rows are in the unrounded network."""
SCALES = "scales"
"""A step that names this is given what is known of each column alone."""
GRADIENTS = "gradients"
"""A step that names this is told how much the loss moves with what an op gives, for words and for pictures."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The mean of |d loss / d y| over the values y that an op gives for words, and for rows of pictures."""

    words: float
    pictures: float


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class InputStatistics:
    """What was seen of the rows x [T, K] that meet a weight, after norm or SwiGLU; weights of one input share it.

    Means over `num_rows` rows, each as often as steps have it count, float32: `second_moment` of x x^T [K, K] (None
    where no step needs it), `mean_abs` of |x| [K], `mean_square` of x^2 [K]. The Hessian of a layer's squared error is
    the second moment, up to a factor. `crossed` is the mean of f x^T [K, K], f the rows that would have come had
    nothing been rounded before.
    """

    num_rows: int
    second_moment: Floats | None
    mean_abs: Floats
    mean_square: Floats
    crossed: Floats | None = None

    def scaled(self, factors: Floats) -> InputStatistics:
        """What would have been seen had every column been multiplied by a factor [K] of 0 or more."""
        moment, crossed = (
            None if found is None else found * factors[:, None] * factors
            for found in (self.second_moment, self.crossed)
        )
        square = self.mean_square * factors * factors
        return InputStatistics(self.num_rows, moment, self.mean_abs * factors, square, crossed)

    def without(self, columns: Order) -> InputStatistics:
        """What would have been seen had these columns [C] been zero."""
        factors = self.mean_abs * 0 + 1
        factors[columns] = 0
        return self.scaled(factors)

    def reordered(self, columns: Order) -> InputStatistics:
        """What would have been seen had the columns stood in this order [K]."""
        moment, crossed = (
            None if found is None else found[columns][:, columns] for found in (self.second_moment, self.crossed)
        )
        return InputStatistics(self.num_rows, moment, self.mean_abs[columns], self.mean_square[columns], crossed)


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a network: `embed`, `layers.0` ..., `head`, as the model's description cuts it.

    `ops` are the block's ops of the prefill program, in order: they say which weights share an input, and what makes
    it. `values` holds every weight of the block in float32 (matrices [N, K], vectors [N]) and may be changed in place;
    `forms` says how each will be kept; `inputs` has what was seen of the rows that meet each matrix. A step that
    changes what a weight meets puts what would then be seen into `inputs`.
    """

    name: str
    ops: tuple[Op, ...]
    forms: Mapping[str, WeightForm]
    values: dict[str, Floats]
    inputs: dict[str, InputStatistics]
