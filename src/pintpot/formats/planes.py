"""Bit planes of docs/layout.md: unsigned codes of 16 rows <-> the vectors that kernels load.

Shapes: S strips, R = 16 rows, G groups of 32 columns, V vectors of 64 bytes, F bit fields of a byte. All work is on
32-bit words that hold one quad (four neighbouring columns of a row): a permutation of bytes is then one strided copy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.registry import STRIP_ROWS

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]

GROUP_COLUMNS = 32
_QUADS = GROUP_COLUMNS // 4
_SPLIT = {8: (8,), 6: (4, 2), 5: (4, 1), 4: (4,), 3: (2, 1), 2: (2,)}


def _planes(bits: int) -> Iterator[tuple[int, int]]:
    """Width of each plane of a `bits` wide code, low plane first, and the code's lowest bit that it holds."""
    low = 0
    for width in _SPLIT[bits]:
        yield width, low
        low += width


def _mask(width: int) -> np.uint32:
    return np.uint32(((1 << width) - 1) * 0x01010101)


def plane_words(planes: Bytes, bits: int) -> Words:
    """A view of uint8 [S, G * 64 * bits] as words [S, G, 16 * bits]: 16 rows of a vector lie side by side."""
    words = planes.view(np.uint32)
    return words.reshape(len(planes), -1, STRIP_ROWS * bits)


def put_quads(quads: Words, out: Words, first: int) -> None:
    """Write words [S, R, G, V] as vectors first .. first + V - 1 of every group of `out` [S, G, 16 * bits]."""
    num_strips, _, num_groups, num_vectors = quads.shape
    stop = first + num_vectors * STRIP_ROWS
    target = out[:, :, first:stop].reshape(num_strips, num_groups, num_vectors, STRIP_ROWS)
    target[...] = quads.transpose(0, 2, 3, 1)


def take_quads(words: Words, first: int, num_vectors: int) -> Words:
    """The inverse of `put_quads`: a new contiguous [S, R, G, V]."""
    num_strips, num_groups, _ = words.shape
    stop = first + num_vectors * STRIP_ROWS
    source = words[:, :, first:stop].reshape(num_strips, num_groups, num_vectors, STRIP_ROWS)
    return np.ascontiguousarray(source.transpose(0, 3, 1, 2))


def store_codes(codes: Bytes, bits: int, out: Bytes) -> None:
    """Write codes [S, R, G * 32] (each below 2**bits) into the planes `out` [S, G * 64 * bits]."""
    num_strips = len(codes)
    quads = codes.view(np.uint32).reshape(num_strips, STRIP_ROWS, -1, _QUADS)
    words = plane_words(out, bits)
    for width, low in _planes(bits):
        if width == 8:
            put_quads(quads, words, 0)
            continue
        fields = quads.reshape(*quads.shape[:3], 8 // width, width)
        packed = np.zeros((*quads.shape[:3], width), np.uint32)
        for field in range(8 // width):
            part = (fields[..., field, :] >> np.uint32(low)) & _mask(width)
            part <<= np.uint32(field * width)
            packed |= part
        put_quads(packed, words, low * STRIP_ROWS)


def load_codes(planes: Bytes, bits: int) -> Bytes:
    """Codes [S, R, G * 32] of the planes [S, G * 64 * bits]."""
    words = plane_words(planes, bits)
    num_strips, num_groups, _ = words.shape
    if bits == 8:
        return take_quads(words, 0, 8).view(np.uint8).reshape(num_strips, STRIP_ROWS, -1)
    quads = np.zeros((num_strips, STRIP_ROWS, num_groups, _QUADS), np.uint32)
    for width, low in _planes(bits):
        packed = take_quads(words, low * STRIP_ROWS, width)
        fields = quads.reshape(*quads.shape[:3], 8 // width, width)
        for field in range(8 // width):
            part = (packed >> np.uint32(field * width)) & _mask(width)
            part <<= np.uint32(low)
            fields[..., field, :] |= part
    return quads.view(np.uint8).reshape(num_strips, STRIP_ROWS, -1)
