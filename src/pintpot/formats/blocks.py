"""Strips -> blocks of GGUF, the way back of `permute`: every bit of a code keeps its value and gets a new place.

Shapes: N rows, K columns, S strips of R = 16 rows, G groups of 32 columns (superblocks of 256 for q4_k and q6_k).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.formats.planes import GROUP_COLUMNS
from pintpot.formats.registry import STRIP_ROWS, Encoding, encoding, num_strips
from pintpot.formats.tiles import need_strips, read_codes
from pintpot.formats.working import chunk_rows

Bytes = NDArray[np.uint8]

HELD_BY = {
    "f32": "f32", "f16": "f16", "bf16": "bf16", "sym8": "q8_0", "sym6": "q8_0", "sym5": "q5_0", "sym4": "q4_0",
    "sym3": "q4_0", "sym2": "q4_0", "aff5": "q5_1", "aff4": "q4_1", "aff3": "q4_1", "aff2": "q4_1", "q4_k": "q4_k",
    "q6_k": "q6_k", "mxfp4": "mxfp4", "sym8_24": "q8_0", "sym6_24": "q8_0", "sym4_24": "q4_0",
}  # fmt: skip
"""The smallest GGUF type that holds every value of a packed format: the same scales, the same codes, more room."""


def block_type(name: str, columns: int) -> str | None:
    """The GGUF type that holds rows of a packed format without loss; None where there is none, or no whole blocks."""
    held = HELD_BY.get(name)
    return None if held is None or columns % encoding(held).block_columns else held


def to_blocks(strips: Bytes, name: str, rows: int, columns: int) -> Bytes:
    """Strips of an N x K matrix as rows of `block_type(name, K)`, uint8 [N, row_bytes], in bounded memory.

    Raises BadInput where no type holds them, or for strips of another size.
    """
    held = block_type(name, columns)
    need(held is not None, f"no GGUF type holds rows of {columns} columns of {name} without loss")
    found, target = need_strips(strips, name, rows, columns), encoding(held or name)
    out = np.empty((rows, target.row_bytes(columns)), np.uint8)
    for start in range(0, rows, chunk_rows(columns)):
        stop = min(rows, start + chunk_rows(columns))
        chunk = strips[start // STRIP_ROWS : num_strips(stop)]
        out[start:stop] = _blocks(chunk, found, target, columns).reshape(-1, out.shape[1])[: stop - start]
    return out


def _blocks(strips: Bytes, found: Encoding, target: Encoding, columns: int) -> Bytes:
    """Rows of blocks [S, R, row_bytes]."""
    if found.kind == "float":
        words: NDArray[Any] = strips.view({2: np.uint16, 4: np.uint32}[found.block_bytes])
        rows = words.reshape(len(strips), -1, STRIP_ROWS).transpose(0, 2, 1)[..., :columns]
        return np.ascontiguousarray(rows).view(np.uint8)
    groups = found.num_groups(columns)
    area = strips[:, : groups * found.group_scale_bytes].reshape(len(strips), groups, found.group_scale_bytes)
    codes = read_codes(strips[:, found.scale_bytes(columns) :], found)
    out = np.empty((len(strips), STRIP_ROWS, groups, target.block_bytes), np.uint8)
    if found.name == "mxfp4":
        _fill_mxfp4(out, area, codes.reshape(*out.shape[:3], GROUP_COLUMNS))
    elif found.kind == "super":
        (_fill_q4_k if found.name == "q4_k" else _fill_q6_k)(out, area, codes.reshape(*out.shape[:3], 8, 32))
    else:
        _fill_groups(out, area, codes.reshape(*out.shape[:3], GROUP_COLUMNS), found, target)
    return out


def _fill_groups(out: Bytes, area: Bytes, codes: Bytes, found: Encoding, target: Encoding) -> None:
    """Blocks [S, R, G, block_bytes] of 32 columns: scales, the high bits of 5, then the codes."""
    at = 0
    for first in range(0, found.group_scale_bytes, 32):
        out[..., at : at + 2] = _half(area, first)
        at += 2
    if found.kind in ("sym", "two_four"):  # the code of zero lies in the middle of its range
        codes += np.uint8((1 << target.code_bits - 1) - (1 << found.code_bits - 1))
    if target.code_bits == 8:
        np.bitwise_xor(codes, 0x80, out=out[..., at:])
        return
    if target.code_bits == 5:
        out[..., at : at + 4] = np.packbits(codes >> 4, axis=-1, bitorder="little")
        at += 4
        codes &= 15
    _join(codes[..., :16], codes[..., 16:], out[..., at:])


def _fill_mxfp4(out: Bytes, area: Bytes, codes: Bytes) -> None:
    """Blocks [S, R, G, 17]: the exponent, then the codes, zero where it is 0: a scale in GGUF, and none here."""
    out[..., 0] = area.transpose(0, 2, 1)
    codes[out[..., 0] == 0] = 0
    _join(codes[..., :16], codes[..., 16:], out[..., 1:])


def _fill_q4_k(out: Bytes, area: Bytes, codes: Bytes) -> None:
    """Blocks [S, R, G, 144] of scales [S, G, 256] and codes [S, R, G, 8, 32]: two groups share a run of bytes."""
    out[..., 0:2], out[..., 2:4] = _half(area, 0), _half(area, 32)
    out[..., 4:16] = area[:, :, 64:].reshape(*area.shape[:2], 12, STRIP_ROWS).transpose(0, 3, 1, 2)
    runs = out[..., 16:].reshape(*out.shape[:3], 4, 32)
    _join(codes[..., 0::2, :], codes[..., 1::2, :], runs)


def _fill_q6_k(out: Bytes, area: Bytes, codes: Bytes) -> None:
    """Blocks [S, R, G, 210] of scales [S, G, 288] and codes [S, R, G, 8, 32]: see `superblock.store_q6_k`."""
    halves = codes.reshape(*out.shape[:3], 2, 4, 32)
    low = halves & np.uint8(15)
    _join(low[..., :2, :], low[..., 2:, :], out[..., :128].reshape(*out.shape[:3], 2, 2, 32))
    high = halves >> 4 << np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    out[..., 128:192].reshape(*out.shape[:3], 2, 32)[...] = np.bitwise_or.reduce(high, axis=-2)
    out[..., 192:208] = area[:, :, 32:].reshape(*area.shape[:2], 16, STRIP_ROWS).transpose(0, 3, 1, 2)
    out[..., 208:210] = _half(area, 0)


def _join(low: Bytes, high: Bytes, out: Bytes) -> None:
    """Two codes of 4 bits to a byte."""
    np.left_shift(high, 4, out=out)
    out |= low


def _half(area: Bytes, first: int) -> Bytes:
    """The two bytes of one float16 per row and group, [S, R, G, 2]."""
    halves = area[:, :, first : first + 32].reshape(*area.shape[:2], STRIP_ROWS, 2)
    return halves.transpose(0, 2, 1, 3)
