"""Columns kept apart: strips of a group format, and behind each some columns of the matrix as float16 (docs/layout.md).

Such a format is called by its grid and the number of those columns, "sym4+8". In the grid they hold what zeros become.
Shapes: N rows, K columns, S strips of R = 16 rows, C columns kept apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.formats.registry import STRIP_ROWS, encoding, num_strips

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Columns = NDArray[np.int64]


def largest_columns(values: Floats, name: str) -> Columns:
    """The columns [C] with the largest squares, ascending: those kept apart where nobody knows what meets them."""
    size = np.square(values, dtype=np.float64).sum(axis=0)
    return np.sort(np.argsort(-size, kind="stable")[: encoding(name).num_apart])


def without(values: Floats, columns: Columns) -> Floats:
    """A copy of values [N, K] with zeros in these columns."""
    rest = values.copy()
    rest[:, columns] = 0
    return rest


def joined(strips: Bytes, values: Floats, name: str, columns: Columns) -> Bytes:
    """Strips in the format `name`, of the grid's strips [S, bytes] and of values [N, K] whose `columns` [C] are kept.

    Raises BadInput where their number is another, or values are too large for float16.
    """
    found, count = encoding(name), len(columns)
    named = count == found.num_apart and _ascend_below(columns, values.shape[1])
    need(named, f"{name} keeps {found.num_apart} columns in order, not {columns.tolist()}")
    with np.errstate(over="ignore"):
        kept = np.zeros((len(strips) * STRIP_ROWS, count), np.float16)
        kept[: len(values)] = values[:, columns]
    need(bool(np.isfinite(kept).all()), f"weights are too large for the columns that {name} keeps")
    whole = np.zeros((len(strips), found.strip_bytes(values.shape[1])), np.uint8)
    at = strips.shape[1]
    whole[:, :at] = strips
    whole[:, at : at + 4 * count] = columns.astype("<i4").view(np.uint8)
    halves = kept.reshape(len(strips), STRIP_ROWS, count).transpose(0, 2, 1).reshape(len(strips), -1)
    whole[:, at + 4 * count : at + 36 * count] = np.ascontiguousarray(halves).view(np.uint8)
    return whole


def separated(strips: Bytes, name: str, rows: int, columns: int) -> tuple[Bytes, Halves, Columns]:
    """The way back of `joined`: the grid's strips, the columns kept [N, C], and which they are [C].

    Raises BadInput where the strips name columns that are not there.
    """
    found = encoding(name)
    count, at = found.num_apart, encoding(found.grid).strip_bytes(columns)
    which = np.ascontiguousarray(strips[0, at : at + 4 * count]).view("<i4").astype(np.int64)
    need(_ascend_below(which, columns), f"strips of {columns} columns keep {which.tolist()} apart")
    words = np.ascontiguousarray(strips[:, at + 4 * count : at + 36 * count]).view(np.float16)
    kept = words.reshape(num_strips(rows), count, STRIP_ROWS).transpose(0, 2, 1).reshape(-1, count)[:rows]
    return np.ascontiguousarray(strips[:, :at]), kept, which


def _ascend_below(which: Columns, columns: int) -> bool:
    return bool((np.diff(which, prepend=-1, append=columns) > 0).all())
