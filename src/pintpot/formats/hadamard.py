"""The Hadamard rotation of neighbouring columns: blocks of 2^k of them times a matrix of +1 and -1, over its norm.

H[i, j] = (-1)^(number of ones in i & j) / sqrt(size) (Sylvester 1867) is symmetric and its own inverse. The fast
transform adds and subtracts at distances 1, 2, 4 ... and scales last: an order that the native kernels share, so that
float32 has the same bits everywhere.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray


def rotate_columns(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Floats [..., K] with each block of `size` columns (a power of two that divides K) rotated, in their own type."""
    found = np.array(values)
    blocks, step = found.reshape(-1, size), 1
    while step < size:
        pairs = blocks.reshape(len(blocks), -1, 2, step)
        first, second = pairs[:, :, 0].copy(), pairs[:, :, 1]
        pairs[:, :, 0] += second
        np.subtract(first, second, out=second)
        step *= 2
    blocks *= found.dtype.type(sqrt(1 / size))
    return found


def rotate_rows(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Floats [N, K] or [N] with each block of `size` rows rotated: what then comes out of a matrix is rotated."""
    return np.ascontiguousarray(rotate_columns(np.ascontiguousarray(values.T), size).T)
