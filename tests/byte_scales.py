"""Scales of one byte, drawn for the formats with a table, so that weights have a sane size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.registry import Encoding
from pintpot.formats.scales import store_byte_scales

Bytes = NDArray[np.uint8]
_BYTES = {"u8": (0, 256), "e8m0": (0, 4), "e4m3": (0, 127)}
_MIDDLE = {"u8": 128.0, "e8m0": 2.0**-5, "e4m3": 16.0}
_ONE = 128
"""The exponent's byte whose scale is 1."""


def draw_byte_scales(
    rng: np.random.Generator, strips: Bytes, found: Encoding, columns: int, size: float | NDArray[np.float64]
) -> None:
    """Write scales of every byte that may be written, such that weights are about as large as `size`."""
    spread = float(np.std(found.levels)) * _MIDDLE[found.scale]
    count = found.num_groups(columns) * found.group_columns // found.scale_columns
    scales = rng.integers(*_BYTES[found.scale], (len(strips), 16, count), np.uint8)
    units = None
    if found.run_groups:
        units = (rng.uniform(0.5, 1, (len(strips), found.num_runs(columns))) * size / spread).astype(np.float32)
    else:
        scales += np.uint8(_ONE + int(np.log2(size / spread)) - 8)
    store_byte_scales(scales, units, strips, found, columns)
