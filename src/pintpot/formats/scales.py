"""Scales of one byte, for the formats with a table of 16 values: what a byte stands for, and where it lies in a strip.

Shapes: N rows, S strips of R = 16 rows, C scales of a row, U runs of them that share a float32, a unit. Units come by
strip, [S, U], or by row, [N, U].
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.registry import STRIP_ROWS, Encoding

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_LARGEST_E4M3 = 0x7E
_HIGHEST = {"u8": 255.0, "e4m3": 256.0}
"""The scale that a run's largest group gets in units of the run: of E4M3's 448 some is left for a search to use."""


def units_of(wanted: Floats, found: Encoding) -> Floats | None:
    """The float32 of each run [S, U] under which scales [N, C] can be written; None where they stand for themselves."""
    if not found.run_groups:
        return None
    num_strips, per_group = -(-len(wanted) // STRIP_ROWS), found.group_columns // found.scale_columns
    span = min(wanted.shape[1], found.run_groups * per_group)
    starts = np.arange(0, wanted.shape[1], span)
    by_row = np.maximum.reduceat(wanted, starts, axis=1)
    by_strip = np.maximum.reduceat(by_row, np.arange(0, len(wanted), STRIP_ROWS), axis=0)
    units: Floats = by_strip.reshape(num_strips, len(starts)) * np.float32(1 / _HIGHEST[found.scale])
    units[units < np.finfo(np.float32).tiny] = 0
    return units


def units_by_row(units: Floats | None, rows: int) -> Floats | None:
    """The units [S, U] of each of so many rows, [N, U]."""
    return None if units is None else np.repeat(units, STRIP_ROWS, axis=0)[:rows]


def write_scales(wanted: Floats, units: Floats | None, found: Encoding) -> Bytes:
    """The bytes [N, C] whose scales, in units by row, are the nearest to these; as powers of two those of OCP's rule,
    3/4 to 3/2 of what is wanted."""
    if units is None:
        _, exponent = np.frexp(wanted * np.float32(1.5))
        return np.where(wanted > 0, np.clip(exponent + 127, 0, 254), 0).astype(np.uint8)
    shared = _by_scale(units, found, wanted.shape[1])
    ratio = np.zeros_like(wanted)
    np.divide(wanted, shared, out=ratio, where=shared > 0)
    if found.scale == "u8":
        return np.clip(np.rint(ratio), 0, 255).astype(np.uint8)
    # Half precision has two bits more for the exponent than is used here, and seven more for the mantissa.
    halves = np.clip(ratio * np.float32(2**-8), 0, 2).astype(np.float16).view(np.uint16)
    nearest: Bytes = np.minimum((halves + 0x3F + (halves >> 7 & 1)) >> 7, _LARGEST_E4M3).astype(np.uint8)
    return nearest


def read_scales(scales: Bytes, units: Floats | None, found: Encoding) -> Floats:
    """What bytes [N, C] stand for in units by row, float32 [N, C], by the rules of docs/layout.md."""
    if units is None:
        return (scales.astype(np.uint32) << 23).view(np.float32) * np.float32(0.5)
    shared = _by_scale(units, found, scales.shape[1])
    if found.scale == "u8":
        return scales.astype(np.float32) * shared
    halves = ((scales & 0x7F).astype(np.uint16) << 7).view(np.float16)
    return halves.astype(np.float32) * np.float32(256) * shared


def store_byte_scales(scales: Bytes, units: Floats | None, strips: Bytes, found: Encoding, columns: int) -> None:
    """Write bytes [S, R, C] and their units by strip where strips hold them."""
    lanes = scales.transpose(0, 2, 1).reshape(len(strips), found.num_groups(columns), -1)
    for run, groups, at in _runs(found, columns):
        if units is not None:
            strips[:, at - 4 : at] = np.ascontiguousarray(units[:, run : run + 1]).view(np.uint8)
        part = lanes[:, groups]
        strips[:, at : at + part[0].size] = part.reshape(len(strips), -1)


def load_byte_scales(strips: Bytes, found: Encoding, columns: int) -> Floats:
    """The scales of whole strips, float32 [S, R, C]."""
    lanes = np.empty((len(strips), found.num_groups(columns), found.group_scale_bytes), np.uint8)
    units = np.empty((len(strips), found.num_runs(columns)), np.float32) if found.run_groups else None
    for run, groups, at in _runs(found, columns):
        if units is not None:
            units[:, run] = np.ascontiguousarray(strips[:, at - 4 : at]).view(np.float32)[:, 0]
        part = lanes[:, groups]
        part[...] = strips[:, at : at + part[0].size].reshape(part.shape)
    by_row = np.ascontiguousarray(lanes.reshape(len(strips), -1, STRIP_ROWS).transpose(0, 2, 1))
    rows = by_row.reshape(len(strips) * STRIP_ROWS, -1)
    return read_scales(rows, units_by_row(units, len(rows)), found).reshape(by_row.shape)


def _runs(found: Encoding, columns: int) -> Iterator[tuple[int, slice, int]]:
    """Each run, the groups in it, and the byte of a strip at which their scales begin."""
    groups = found.num_groups(columns)
    length, at = found.run_groups or groups, 0
    for run, first in enumerate(range(0, groups, length)):
        stop = min(groups, first + length)
        at += 4 if found.run_groups else 0
        yield run, slice(first, stop), at
        at += (stop - first) * found.group_scale_bytes


def _by_scale(units: Floats, found: Encoding, count: int) -> Floats:
    """The unit [N, C] of each of so many scales of a row, of units by row."""
    span = found.run_groups * (found.group_columns // found.scale_columns)
    return np.repeat(units, min(span, count), axis=1)[:, :count]
