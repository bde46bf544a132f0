"""Drawn values and strips of which two of every four columns are zero."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.registry import STRIP_ROWS, Encoding
from pintpot.formats.two_four import store_kept


def pruned(values: NDArray[Any], zero: int = 0) -> NDArray[Any]:
    """A copy of [..., K], K a multiple of 4, that keeps two of every four: the largest away from zero."""
    fours = values.reshape(-1, 4).copy()
    size = np.abs(fours.astype(np.int64) - zero) if values.dtype == np.uint8 else np.abs(fours)
    np.put_along_axis(fours, np.argsort(size, axis=1, kind="stable")[:, :2], zero, 1)
    return fours.reshape(values.shape)


def draw_kept(rng: np.random.Generator, strips: NDArray[np.uint8], found: Encoding, columns: int) -> None:
    """Draw the planes of strips in a 2:4 format; in a third of the fours less than two are kept."""
    zero, width = 1 << found.code_bits - 1, found.num_groups(columns) * 32
    codes = rng.integers(0, 2 * zero, (len(strips), STRIP_ROWS, width), np.uint8)
    codes[rng.random(codes.shape) < 0.2] = zero
    order = rng.permuted(np.tile(np.arange(4), (codes.size // 4, 1)), axis=1)
    np.put_along_axis(codes.reshape(-1, 4), order[:, :2], zero, 1)
    store_kept(codes, found.code_bits, strips[:, found.scale_bytes(columns) :])
