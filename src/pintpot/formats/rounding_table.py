"""Round to nearest with a table of 16 values: float32 -> codes and scales of one byte (`nf4`, `mxfp4`, `nvfp4`).

The plain variant maps a group's largest magnitude onto the table's. The search fits a scale to each of a few clipped
ranges by least squares, keeps the fit that explains most of the group, and takes it only where, as a byte writes it, it
errs less than the plain one; powers of two are too far apart for that, and their search looks at the next one up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.registry import STRIP_ROWS, Encoding, num_strips
from pintpot.formats.scales import read_scales, units_by_row, units_of, write_scales
from pintpot.formats.tiles import Codes
from pintpot.formats.working import chunk_rows, rounding_rows

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_VANISHING = 2.0**-126
# Below 1 the largest values are cut off; above, the largest meets a level that is not the last.
_RANGES = {"u8": (1.0, 0.94, 0.87, 0.8), "e4m3": (1.0, 0.9, 1.5, 1.3, 1.15)}


def round_table(values: Floats, found: Encoding, search: bool) -> Codes:
    """Finite float32 [N, K], none beyond 2**40, in a format with a table."""
    rows, columns = values.shape
    width = found.num_groups(columns) * found.group_columns
    codes = np.empty((rows, width), np.uint8)
    d = np.empty((rows, width // found.scale_columns), np.uint8)
    unit = np.empty((num_strips(rows), found.num_runs(columns)), np.float32) if found.run_groups else None
    rounder = _Rounder.of(found)
    for start in range(0, rows, chunk_rows(columns)):
        chunk = values[start : start + chunk_rows(columns)]
        wanted = _peaks(chunk, width, found.scale_columns) * np.float32(1 / max(found.levels))
        shared = units_of(wanted, found)
        if unit is not None and shared is not None:
            unit[start // STRIP_ROWS : num_strips(start + len(chunk))] = shared
        every = units_by_row(shared, len(chunk))
        step = rounding_rows(columns)
        for first in range(0, len(chunk), step):
            part = slice(first, first + step)
            to = slice(start + first, start + min(first + step, len(chunk)))
            own = None if every is None else every[part]
            d[to], codes[to] = rounder.rows(_padded(chunk[part], width), wanted[part], own, search)
    return Codes(codes, d, None, unit)


def _peaks(values: Floats, width: int, scale_columns: int) -> Floats:
    """The largest magnitude under each scale [N, C]."""
    peaks = np.zeros((len(values), width // scale_columns), np.float32)
    whole = values.shape[1] // scale_columns
    grouped = values[:, : whole * scale_columns].reshape(len(values), whole, scale_columns)
    np.maximum(grouped.max(axis=2), -grouped.min(axis=2), out=peaks[:, :whole])
    if values.shape[1] > whole * scale_columns:
        peaks[:, whole] = np.abs(values[:, whole * scale_columns :]).max(axis=1)
    return peaks


def _padded(values: Floats, width: int) -> Floats:
    if values.shape[1] == width:
        return values
    padded = np.zeros((len(values), width), np.float32)
    padded[:, : values.shape[1]] = values
    return padded


@dataclass(frozen=True, slots=True)
class _Rounder:
    """Rounds to the levels of one format. Groups lie along the second axis, [columns under a scale, groups]."""

    found: Encoding
    bound: int
    level_of: Floats
    code_of: Bytes

    @classmethod
    def of(cls, found: Encoding) -> _Rounder:
        """Levels and codes by halves of a step: between two integers, all values are nearest to the same level."""
        bound = max(found.levels)
        levels = np.array(found.levels)
        middles = (np.arange(4 * bound) + 0.5) / 2 - bound
        codes = np.abs(middles[:, None] - levels).argmin(axis=1)
        return cls(found, bound, levels[codes].astype(np.float32), codes.astype(np.uint8))

    def rows(self, values: Floats, wanted: Floats, units: Floats | None, search: bool) -> tuple[Bytes, Bytes]:
        """Scales [n, C] and codes [n, width] of rows whose largest magnitudes want these scales."""
        w = np.ascontiguousarray(values.reshape(-1, self.found.scale_columns).T)
        written = write_scales(wanted, units, self.found)
        d = read_scales(written, units, self.found)
        if search:
            other = self._next(written) if units is None else self._fitted(w, wanted, units)
            other_d = read_scales(other, units, self.found)
            better = self._error(w, other_d) < self._error(w, d)
            written, d = np.where(better, other, written), np.where(better, other_d, d)
        codes = self.code_of.take(self._steps(w, d))
        return written, np.ascontiguousarray(codes.T).reshape(values.shape)

    def _next(self, written: Bytes) -> Bytes:
        return written + ((written > 0) & (written < 254))

    def _fitted(self, w: Floats, wanted: Floats, units: Floats) -> Bytes:
        """The least-squares scale of the range that explains most, which is (q . w)^2 / (q . q), as it is written."""
        best, scale = np.zeros_like(wanted), np.zeros_like(wanted)
        for factor in _RANGES[self.found.scale]:
            q = self.level_of.take(self._steps(w, wanted * np.float32(factor)))
            along = np.einsum("ij,ij->j", q, w).reshape(wanted.shape)
            size = np.einsum("ij,ij->j", q, q).reshape(wanted.shape)
            fit = np.divide(along, size, out=np.zeros_like(along), where=size > 0)
            better = along * fit > best
            np.copyto(best, along * fit, where=better)
            np.copyto(scale, fit, where=better)
        return write_scales(scale, units, self.found)

    def _steps(self, w: Floats, d: Floats) -> NDArray[np.intp]:
        """Where each value lies between the ends of the table, in halves of a step."""
        by = np.divide(np.float32(2), d, out=np.zeros_like(d), where=d >= _VANISHING)
        at = w * by.reshape(-1)
        at += np.float32(2 * self.bound)
        np.clip(at, 0, 4 * self.bound - 1, out=at)
        return at.astype(np.intp)

    def _error(self, w: Floats, d: Floats) -> Floats:
        """Squared error of each group [n, C]."""
        off = self.level_of.take(self._steps(w, d))
        off *= d.reshape(-1)
        off -= w
        errors: Floats = np.einsum("ij,ij->j", off, off)
        return errors.reshape(d.shape)
