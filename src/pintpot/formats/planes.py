"""Bit planes of docs/layout.md: unsigned codes of 16 rows <-> the vectors that kernels load.

Shapes: S strips, R = 16 rows, G groups of 32 columns, Q quads of a group, V vectors of 64 bytes. All work is on
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
QUADS = GROUP_COLUMNS // 4
_SPLIT = {8: (8,), 6: (4, 2), 5: (4, 1), 4: (4,), 3: (2, 1), 2: (2,)}


def _planes(bits: int) -> Iterator[tuple[int, int]]:
    """Width of each plane of a `bits` wide code, low plane first, and the code's lowest bit that it holds."""
    low = 0
    for width in _SPLIT[bits]:
        yield width, low
        low += width


def _mask(width: int) -> np.uint32:
    return np.uint32(((1 << width) - 1) * 0x01010101)


def plane_words(planes: Bytes, bits: float) -> Words:
    """A view of uint8 [S, G * 64 * bits] as words [S, G, 16 * bits]: 16 rows of a vector lie side by side."""
    words = planes.view(np.uint32)
    return words.reshape(len(planes), -1, int(STRIP_ROWS * bits))


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
    quads = codes.view(np.uint32).reshape(len(codes), STRIP_ROWS, -1, QUADS)
    store_quads(quads, bits, plane_words(out, bits), 0)


def store_quads(quads: Words, bits: int, out: Words, first: int) -> None:
    """Write words [S, R, G, Q] of four codes each as planes that begin at a word of every group of `out`."""
    for width, low in _planes(bits):
        at = first + low * quads.shape[3] * STRIP_ROWS // 8
        if width == 8:
            put_quads(quads, out, at)
            continue
        fields = quads.reshape(*quads.shape[:3], 8 // width, -1)
        packed = np.zeros((*quads.shape[:3], fields.shape[-1]), np.uint32)
        for field in range(8 // width):
            part = (fields[..., field, :] >> np.uint32(low)) & _mask(width)
            part <<= np.uint32(field * width)
            packed |= part
        put_quads(packed, out, at)


def load_codes(planes: Bytes, bits: int) -> Bytes:
    """Codes [S, R, G * 32] of the planes [S, G * 64 * bits]."""
    quads = load_quads(plane_words(planes, bits), bits, QUADS, 0)
    return quads.view(np.uint8).reshape(len(planes), STRIP_ROWS, -1)


def load_quads(words: Words, bits: int, num_quads: int, first: int) -> Words:
    """The inverse of `store_quads`: a new contiguous [S, R, G, Q]."""
    if bits == 8:
        return take_quads(words, first, num_quads)
    quads = np.zeros((len(words), STRIP_ROWS, words.shape[1], num_quads), np.uint32)
    for width, low in _planes(bits):
        packed = take_quads(words, first + low * num_quads * STRIP_ROWS // 8, width * num_quads // 8)
        fields = quads.reshape(*quads.shape[:3], 8 // width, -1)
        for field in range(8 // width):
            part = (packed >> np.uint32(field * width)) & _mask(width)
            part <<= np.uint32(low)
            fields[..., field, :] |= part
    return quads
