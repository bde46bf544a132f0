"""Round to nearest in superblocks: float32 -> strips of q4_k and q6_k.

The plain variant maps extremes of groups onto extreme levels, as near as the units of their superblock allow; the
search (`fitting_super`), with all columns alike, is taken for each superblock that then errs less.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.grid import SuperGrid
from pintpot.formats.registry import encoding
from pintpot.formats.rounding import finite

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def round_super(values: Floats, name: str, *, search: bool = True) -> Bytes:
    """Float32 [N, K] as strips of a superblock format.

    Raises BadInput, with their number, when values are infinite or not a number, and where K is no multiple of 256.
    """
    found = finite(values)
    grid = SuperGrid.made(encoding(name))
    scales = grid.scaled(found, np.ones(found.shape[1], np.float32), search)
    return grid.strips(grid.nearest(found, scales), scales)
