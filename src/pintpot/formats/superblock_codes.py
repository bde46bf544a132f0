"""Codes and scales of superblocks -> strips of q4_k and q6_k (docs/layout.md), for values that come from no such file.

Shapes: N rows, K columns, S superblocks of 256 columns in a row, G groups of 32 (q4_k) or 16 (q6_k) columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.formats.planes import store_codes
from pintpot.formats.registry import STRIP_ROWS, Encoding, encoding, need_fit, num_strips
from pintpot.formats.tiles import need_strips, new_strips, store_scales, whole_strips
from pintpot.formats.working import chunk_rows

Bytes = NDArray[np.uint8]
Halves = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Superblocks:
    """A matrix in superblocks: codes uint8 [N, K]; d float16 [N, S] and in its units steps [N, G], one byte each.

    q4_k has minima uint8 [N, G] in units of dmin float16 [N, S] besides, and both steps and minima below 64; the steps
    of q6_k are signed.
    """

    codes: Bytes
    d: Halves
    steps: NDArray[Any]
    dmin: Halves | None = None
    minima: Bytes | None = None


def pack_superblocks(source: Superblocks, name: str, out: Bytes | None = None) -> Bytes:
    """Superblocks of N x K in the format `name` as strips; rows past N are zero.

    Raises BadInput for another format and where shapes, or the presence of minima, disagree.
    """
    rows, columns = source.codes.shape
    found = encoding(name)
    _need_shapes(source, found)
    strips = new_strips(name, rows, columns) if out is None else out
    need_strips(strips, name, rows, columns)
    for start in range(0, rows, chunk_rows(columns)):
        part = slice(start, min(rows, start + chunk_rows(columns)))
        chunk = strips[start // STRIP_ROWS : num_strips(part.stop)]
        _store_scales(source, part, chunk, found, columns)
        store_codes(whole_strips(source.codes[part]), found.code_bits, chunk[:, found.scale_bytes(columns) :])
    return strips


def _need_shapes(source: Superblocks, found: Encoding) -> None:
    need(found.kind == "super", f"superblocks are packed as q4_k or q6_k, not {found.name}")
    rows, columns = source.codes.shape
    need_fit(found, columns)
    blocks, groups = (rows, columns // found.block_columns), (rows, columns // found.scale_columns)
    shapes = [None if one is None else one.shape for one in (source.d, source.steps, source.dmin, source.minima)]
    wanted = [blocks, groups, *((blocks, groups) if found.has_minimum else (None, None))]
    need(shapes == wanted, f"scales of {rows} x {columns} in {found.name} are {wanted}, not {shapes}")


def _store_scales(source: Superblocks, part: slice, strips: Bytes, found: Encoding, columns: int) -> None:
    """Numbers of superblocks, then the bytes of their groups, one per row."""
    store_scales(whole_strips(source.d[part]), strips, found, columns, 0)
    by_group = source.steps[part].view(np.uint8)
    at = 32
    if source.dmin is not None and source.minima is not None:
        store_scales(whole_strips(source.dmin[part]), strips, found, columns, 32)
        by_group, at = _six_bits(by_group, source.minima[part]), 64
    used = found.num_groups(columns) * found.group_scale_bytes
    area = strips[:, :used].reshape(len(strips), -1, found.group_scale_bytes)[:, :, at:]
    lanes = whole_strips(by_group).reshape(len(strips), STRIP_ROWS, area.shape[1], -1)
    area.reshape(*area.shape[:2], -1, STRIP_ROWS)[...] = lanes.transpose(0, 2, 3, 1)
    strips[:, used : found.scale_bytes(columns)] = 0


def _six_bits(steps: Bytes, minima: Bytes) -> Bytes:
    """Eight steps and eight minima of 6 bits in 12 bytes each: [N, S * 12] of [N, S * 8]; see `six_bit_scales`."""
    scales, offsets = (one.reshape(len(one), -1, 2, 4) for one in (steps, minima))
    packed = np.empty((len(scales), scales.shape[1], 3, 4), np.uint8)
    packed[:, :, 0] = scales[:, :, 0] | scales[:, :, 1] >> 4 << 6
    packed[:, :, 1] = offsets[:, :, 0] | offsets[:, :, 1] >> 4 << 6
    packed[:, :, 2] = scales[:, :, 1] & 15 | offsets[:, :, 1] << 4
    return packed.reshape(len(packed), -1)
