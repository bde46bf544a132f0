"""Strips of docs/layout.md: codes or floats -> uint8 [num_strips, strip_bytes], and back to float32.

Shapes: N rows, K columns, S strips of R = 16 rows, G column groups. Any bytes are valid strips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.formats.columns_apart import separated
from pintpot.formats.planes import GROUP_COLUMNS, load_codes, store_codes
from pintpot.formats.registry import STRIP_ROWS, Encoding, encoding, num_strips
from pintpot.formats.scales import load_byte_scales, read_scales, store_byte_scales, units_by_row
from pintpot.formats.superblock import load_q4_k, load_q6_k
from pintpot.formats.two_four import load_kept, store_kept
from pintpot.formats.working import chunk_rows

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix in groups of 32: codes uint8 [N, G * 32], d float16 [N, G], and m float16 [N, G] or None (`sym`).

    With a table: groups may be wider, d is the bytes that write the scales [N, C], and unit float32 [S, U] or None what
    runs of them share (docs/layout.md). Codes of columns past K are the code for padding, `zero_code`.
    """

    codes: Bytes
    d: Halves | Bytes
    m: Halves | None
    unit: Floats | None = None

    def scales(self, name: str) -> Floats:
        """What the scales are worth in the format `name`: float32 [N, C], each for some neighbouring columns."""
        found = encoding(name)
        if found.kind == "table":
            return read_scales(self.d.view(np.uint8), units_by_row(self.unit, len(self.d)), found)
        return self.d.astype(np.float32)


def zero_code(found: Encoding) -> int:
    """The code of padding: that of zero, or the lowest one where groups have a minimum."""
    if found.kind == "table":
        return found.levels.index(0)
    return 1 << (found.code_bits - 1) if found.kind in ("sym", "two_four") else 0


def new_strips(name: str, rows: int, columns: int) -> Bytes:
    """Uninitialised strips for a matrix."""
    return np.empty((num_strips(rows), encoding(name).strip_bytes(columns)), np.uint8)


def need_strips(strips: Bytes, name: str, rows: int, columns: int) -> Encoding:
    """The kernel format of this name; raises BadInput unless `strips` can hold such a matrix."""
    found = encoding(name)
    shape = (num_strips(rows), found.strip_bytes(columns))
    fits = strips.shape == shape and strips.dtype == np.uint8 and strips.flags.c_contiguous
    need(fits, f"{rows} x {columns} in {name} is contiguous uint8 {shape}, not {strips.dtype} {strips.shape}")
    return found


def whole_strips(rows: NDArray[_Scalar], fill: int = 0) -> NDArray[_Scalar]:
    """[N, X] as contiguous [S, R, X], rows past N filled; a view where nothing has to move."""
    strips = num_strips(len(rows))
    if len(rows) == strips * STRIP_ROWS:
        return np.ascontiguousarray(rows).reshape(strips, STRIP_ROWS, -1)
    padded = np.full((strips * STRIP_ROWS, rows.shape[1]), fill, rows.dtype)
    padded[: len(rows)] = rows
    return padded.reshape(strips, STRIP_ROWS, -1)


def store_scales(scales: NDArray[Any], strips: Bytes, found: Encoding, columns: int, first: int) -> None:
    """Write one 2-byte scale per row and group, [S, R, G], at byte `first` of every group's scales."""
    groups, stride = found.num_groups(columns), found.group_scale_bytes
    area = strips[:, : groups * stride].view(np.uint16).reshape(len(strips), groups, stride // 2)
    area[:, :, first // 2 : first // 2 + STRIP_ROWS] = scales.view(np.uint16).transpose(0, 2, 1)


def clear_scale_padding(strips: Bytes, found: Encoding, columns: int) -> None:
    """Zero the bytes between the scales and the planes, so that equal weights have equal strips."""
    used = found.num_groups(columns) * found.group_scale_bytes + 4 * found.num_runs(columns)
    strips[:, used : found.scale_bytes(columns)] = 0


def pack_codes(source: Codes, name: str, columns: int, out: Bytes | None = None) -> Bytes:
    """Codes of N x K in the format `name` (`symB`, `affB`, one with a table, 2:4) as strips; rows past N get d = m = 0.

    Every code must be below 2**B. Raises BadInput where shapes, or the presence of a minimum, disagree, and where more
    than two of four codes are not zero in a 2:4 format.
    """
    rows = len(source.codes)
    strips = new_strips(name, rows, columns) if out is None else out
    found = need_strips(strips, name, rows, columns)
    _need_codes(source, found, rows, columns)
    zero = zero_code(found)
    clear_scale_padding(strips, found, columns)
    for start in range(0, rows, chunk_rows(columns)):
        part = slice(start, min(rows, start + chunk_rows(columns)))
        chunk = strips[start // STRIP_ROWS : num_strips(part.stop)]
        if found.kind == "table":
            unit = None if source.unit is None else source.unit[start // STRIP_ROWS : num_strips(part.stop)]
            store_byte_scales(whole_strips(source.d[part].view(np.uint8)), unit, chunk, found, columns)
        else:
            store_scales(whole_strips(source.d[part]), chunk, found, columns, 0)
        if source.m is not None:
            store_scales(whole_strips(source.m[part]), chunk, found, columns, 32)
        store = store_kept if found.kind == "two_four" else store_codes
        store(whole_strips(source.codes[part], zero), found.code_bits, chunk[:, found.scale_bytes(columns) :])
    return strips


def _need_codes(source: Codes, found: Encoding, rows: int, columns: int) -> None:
    name, groups = found.name, found.num_groups(columns)
    coded = found.kind in ("sym", "aff", "table", "two_four")
    need(coded, f"codes are packed as symB, affB, with a table or 2:4, not {name}")
    need((source.m is None) == (found.kind != "aff"), f"{name} and these codes disagree about a minimum per group")
    per_group = found.group_columns // (found.scale_columns or found.group_columns)
    wanted = (rows, groups * found.group_columns), (rows, groups * per_group)
    fits = (source.codes.shape, source.d.shape) == wanted
    need(fits, f"{rows} x {columns} has {groups} groups a row, unlike codes {source.codes.shape}, d {source.d.shape}")
    shared = (num_strips(rows), found.num_runs(columns)) if found.run_groups else None
    given = None if source.unit is None else source.unit.shape
    need(given == shared, f"{name} shares {shared} numbers among these scales, not {given}")
    need(
        source.d.dtype == (np.uint8 if found.kind == "table" else np.float16), f"{name} has no {source.d.dtype} scales"
    )


def pack_floats(values: Floats, name: str, out: Bytes | None = None) -> Bytes:
    """Float32 [N, K] as strips of `f32`, `f16` or `bf16`, rounded to nearest even.

    Raises BadInput, with their number, when finite values are too large for the format.
    """
    rows, columns = values.shape
    strips = new_strips(name, rows, columns) if out is None else out
    found = need_strips(strips, name, rows, columns)
    need(found.kind == "float", f"floats are packed as f32, f16 or bf16, not {name}")
    for start in range(0, rows, chunk_rows(columns)):
        part = values[start : start + chunk_rows(columns)]
        words = narrow(part, name)
        chunk = strips[start // STRIP_ROWS : num_strips(start + len(part))]
        store_words(whole_strips(words), chunk, columns)
    return strips


def store_words(words: NDArray[Any], strips: Bytes, columns: int) -> None:
    """Write float words [S, R, K] column by column, padding columns with zeros."""
    area = strips.view(words.dtype).reshape(len(strips), -1, STRIP_ROWS)
    area[:, :columns] = words.transpose(0, 2, 1)
    area[:, columns:] = 0


def narrow(values: Floats, name: str) -> NDArray[Any]:
    """Float32 as the words of a float format, rounded to nearest even. Raises BadInput as `pack_floats` does."""
    if name == "f32":
        return np.ascontiguousarray(values)
    if name == "f16":
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        _need_finite(np.isinf(halves), values, name)
        return halves
    words = np.ascontiguousarray(values).view(np.uint32)
    rounded = ((words + ((words >> 16 & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    _need_finite((rounded & 0x7FFF) == 0x7F80, values, name)
    return rounded


def _need_finite(infinite: NDArray[np.bool_], values: Floats, name: str) -> None:
    if infinite.any():
        lost = int(np.count_nonzero(infinite & np.isfinite(values)))
        need(lost == 0, f"{lost} of {values.size} weights are too large for {name}")


def unpack(strips: Bytes, name: str, rows: int, columns: int, out: Floats | None = None) -> Floats:
    """Strips of an N x K matrix as float32 [N, K], with the arithmetic of docs/layout.md.

    Raises BadInput when `strips` has another size than such a matrix.
    """
    found = need_strips(strips, name, rows, columns)
    result = np.empty((rows, columns), np.float32) if out is None else out
    need(result.shape == (rows, columns), f"output is {result.shape}, not {(rows, columns)}")
    if found.num_apart:
        strips, kept, which = separated(strips, name, rows, columns)
        unpack(strips, found.grid, rows, columns, result)
        result[:, which] = kept
        return result
    with np.errstate(all="ignore"):
        for start in range(0, rows, chunk_rows(columns)):
            stop = min(rows, start + chunk_rows(columns))
            values = _load(strips[start // STRIP_ROWS : num_strips(stop)], found, columns)
            result[start:stop] = values.reshape(-1, values.shape[2])[: stop - start, :columns]
    return result


def _load(strips: Bytes, found: Encoding, columns: int) -> NDArray[Any]:
    """All values of some strips, padding included: float [S, R, padded K]."""
    if found.kind == "float":
        return _load_floats(strips, found.name)
    scales, planes = strips[:, : found.scale_bytes(columns)], strips[:, found.scale_bytes(columns) :]
    if found.kind == "table":
        return _load_levels(planes, scales, found, columns)
    groups = found.num_groups(columns)
    area = scales[:, : groups * found.group_scale_bytes].reshape(len(strips), groups, found.group_scale_bytes)
    if found.kind == "super":
        return (load_q4_k if found.name == "q4_k" else load_q6_k)(area, planes)
    values = read_codes(planes, found).astype(np.float32)
    grouped = values.reshape(len(strips), STRIP_ROWS, groups, GROUP_COLUMNS)
    halves = area.view(np.float16).transpose(0, 2, 1)[..., None].astype(np.float32)
    grouped -= np.float32(zero_code(found))
    grouped *= halves[:, :STRIP_ROWS]
    if found.kind == "aff":
        grouped += halves[:, STRIP_ROWS:]
    return values


def read_codes(planes: Bytes, found: Encoding) -> Bytes:
    """Codes [S, R, padded K] of the planes of some strips."""
    return (load_kept if found.kind == "two_four" else load_codes)(planes, found.code_bits)


def _load_levels(planes: Bytes, scales: Bytes, found: Encoding, columns: int) -> Floats:
    levels = bytes(level & 0xFF for level in found.levels) * 16
    signed = np.frombuffer(load_codes(planes, found.code_bits).tobytes().translate(levels), np.int8)
    d = load_byte_scales(scales, found, columns)
    grouped = signed.reshape(*d.shape, found.scale_columns).astype(np.float32)
    grouped *= d[..., None]
    return grouped.reshape(len(planes), STRIP_ROWS, -1)


def _load_floats(strips: Bytes, name: str) -> NDArray[Any]:
    word = {"f32": "f4", "f16": "f2", "bf16": "u2"}[name]
    values: NDArray[Any] = strips.view(np.dtype(word)).reshape(len(strips), -1, STRIP_ROWS).transpose(0, 2, 1)
    if name == "bf16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values
