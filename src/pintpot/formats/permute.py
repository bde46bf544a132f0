"""Blocks of a model file -> strips without a second rounding: every bit of a code keeps its value and gets a new place.

q4_0 q5_0 q8_0 become sym4 sym5 sym8, q4_1 q5_1 become aff4 aff5, q4_k and q6_k and the floats keep their names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.formats.planes import plane_words, put_quads
from pintpot.formats.registry import STRIP_ROWS, Encoding, encoding
from pintpot.formats.source import need_rows
from pintpot.formats.superblock import store_q4_k, store_q6_k
from pintpot.formats.tiles import clear_scale_padding, need_strips, new_strips, store_scales, store_words, whole_strips
from pintpot.formats.working import chunk_rows

Bytes = NDArray[np.uint8]

# Delta swaps (shift, mask) that send bit 4s + i of a 32-bit word to bit 8i + s: an exchange of two index bits each.
_SPREAD = ((14, 0x0000CCCC), (7, 0x00AA00AA), (2, 0x0C0C0C0C), (1, 0x22222222))


def repack(raw: Bytes, source: str, columns: int, out: Bytes | None = None) -> Bytes:
    """Rows of source blocks, uint8 [N, row_bytes], as strips of `encoding(source).packed_as`, without loss.

    Raises BadInput for an encoding that has no lossless packed form (`convert` expands it) or for rows of another size.
    """
    found = encoding(source)
    need(found.is_source and found.lossless, f"{source} has no lossless packed form")
    need_rows(raw, source, columns)
    target = encoding(found.packed_as)
    strips = new_strips(target.name, len(raw), columns) if out is None else out
    need_strips(strips, target.name, len(raw), columns)
    for start in range(0, len(raw), chunk_rows(columns)):
        part = whole_strips(raw[start : start + chunk_rows(columns)])
        chunk = strips[start // STRIP_ROWS : start // STRIP_ROWS + len(part)]
        _store(part, chunk, found, target, columns)
    return strips


def _store(rows: Bytes, strips: Bytes, source: Encoding, target: Encoding, columns: int) -> None:
    """Rows uint8 [S, R, row_bytes] into their strips."""
    if target.kind == "float":
        store_words(rows.view({2: np.uint16, 4: np.uint32}[target.block_bytes]), strips, columns)
        return
    clear_scale_padding(strips, target, columns)
    split = target.scale_bytes(columns)
    planes = strips[:, split:]
    blocks = rows.reshape(len(rows), STRIP_ROWS, -1, source.block_bytes)
    if target.kind == "super":
        used = target.num_groups(columns) * target.group_scale_bytes
        scales = strips[:, :used].reshape(len(strips), -1, target.group_scale_bytes)
        (store_q4_k if target.name == "q4_k" else store_q6_k)(blocks, scales, planes)
        return
    halves: NDArray[Any] = blocks.view(np.uint16)
    store_scales(halves[..., 0], strips, target, columns, 0)
    if target.kind == "aff":
        store_scales(halves[..., 1], strips, target, columns, 32)
    _store_group_codes(halves[..., 2 if target.kind == "aff" else 1 :], planes, target.code_bits)


def _store_group_codes(codes: NDArray[np.uint16], planes: Bytes, bits: int) -> None:
    """What follows the scales of 32 columns, [S, R, G, 2 * bits], into planes.

    A nibble byte j holds columns j and j + 16, which is what byte j % 4 of vector j / 4 holds in a 4-bit plane.
    """
    words = plane_words(planes, bits)
    quads = np.ascontiguousarray(codes).view(np.uint32)
    if bits == 8:
        quads ^= np.uint32(0x80808080)
    if bits == 5:
        put_quads(_spread(quads[..., :1]), words, 4 * STRIP_ROWS)
        quads = quads[..., 1:]
    put_quads(quads, words, 0)


def _spread(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """One bit per column, in column order, as a 1-bit plane's words."""
    words = np.ascontiguousarray(bits)
    for shift, mask in _SPREAD:
        moved = (words >> np.uint32(shift) ^ words) & np.uint32(mask)
        words = words ^ moved ^ (moved << np.uint32(shift))
    return words
