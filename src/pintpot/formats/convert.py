"""Any source encoding -> any packed format, a few strips at a time: what the packer calls for a weight.

Where the source has a lossless packed form and that is asked for, its bits are permuted. Everything else is decoded to
float32, rounded and packed, and at no time is more than a chunk of the matrix held in float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.formats.columns_apart import joined, largest_columns, without
from pintpot.formats.permute import repack
from pintpot.formats.registry import STRIP_ROWS, can_pack, encoding, need_fit, num_strips
from pintpot.formats.rounding import round_to_nearest
from pintpot.formats.rounding_super import round_super
from pintpot.formats.source import decode, need_rows
from pintpot.formats.tiles import need_strips, new_strips, pack_codes, pack_floats, unpack
from pintpot.formats.working import chunk_rows

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def convert(
    raw: Bytes, source: str, target: str, columns: int, *, search: bool = True, out: Bytes | None = None
) -> Bytes:
    """Rows of source blocks, uint8 [N, row_bytes], as strips of `target`, uint8 [num_strips, strip_bytes].

    `search` is that of `round_to_nearest`. Raises BadInput for a pair that `can_pack` refuses, for rows of another
    size, and for values that the target cannot hold (infinite, not a number, too large for a float format).
    """
    need(can_pack(source, target), f"{source} cannot be packed as {target}")
    if encoding(source).packed_as == target and encoding(source).lossless:
        return repack(raw, source, columns, out)
    need_fit(encoding(target), columns)
    need_rows(raw, source, columns)
    strips = new_strips(target, len(raw), columns) if out is None else out
    need_strips(strips, target, len(raw), columns)
    for start in range(0, len(raw), chunk_rows(columns)):
        values = decode(raw[start : start + chunk_rows(columns)], source, columns)
        _encode_chunk(values, target, search, strips[start // STRIP_ROWS : num_strips(start + len(values))])
    return strips


def encode(values: Floats, target: str, *, search: bool = True, out: Bytes | None = None) -> Bytes:
    """Float32 [N, K] as strips of `target`. Raises as `convert` does.

    Where the format keeps columns apart, those with the largest values; `out` is then not used.
    """
    need(can_pack("f32", target), f"floats cannot be packed as {target}")
    rows, columns = values.shape
    need_fit(encoding(target), columns)
    if encoding(target).num_apart:
        apart = largest_columns(values, target)
        grid = encode(without(values, apart), encoding(target).grid, search=search)
        return joined(grid, values, target, apart)
    strips = new_strips(target, rows, columns) if out is None else out
    need_strips(strips, target, rows, columns)
    for start in range(0, rows, chunk_rows(columns)):
        part = values[start : start + chunk_rows(columns)]
        _encode_chunk(part, target, search, strips[start // STRIP_ROWS : num_strips(start + len(part))])
    return strips


def _encode_chunk(values: Floats, target: str, search: bool, strips: Bytes) -> None:
    kind = encoding(target).kind
    if kind == "float":
        pack_floats(values, target, strips)
    elif kind == "super":
        strips[...] = round_super(values, target, search=search)
    else:
        pack_codes(round_to_nearest(values, target, search=search), target, values.shape[1], strips)


def relative_error(values: Floats, target: str, *, search: bool = True) -> float:
    """Root of the squared error of `target` over the root of the squared values, 0 for values that are all zero."""
    back = unpack(encode(values, target, search=search), target, *values.shape)
    size = float(np.square(values, dtype=np.float64).sum())
    error = float(np.square(back.astype(np.float64) - values).sum())
    return float(np.sqrt(error / size)) if size else 0.0
