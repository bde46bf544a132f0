"""The two superblock formats, q4_k and q6_k: GGUF blocks of 256 columns <-> strips, a permutation of their bits.

Shapes: S strips, R = 16 rows, G superblocks of 256 columns. Scales are uint8 [S, G, group_scale_bytes].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.planes import load_codes, plane_words, put_quads
from pintpot.formats.registry import STRIP_ROWS
from pintpot.formats.source import six_bit_scales

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
_LOW = np.uint32(0x0F0F0F0F)
_PAIR = np.uint32(0x03030303)


def store_q4_k(blocks: Bytes, scales: Bytes, planes: Bytes) -> None:
    """Write Q4_K blocks [S, R, G, 144] as scales [S, G, 256] and planes [S, G * 2048]."""
    heads = blocks[..., :16].transpose(0, 2, 1, 3)
    _store_half(heads[..., 0:2], scales, 0)
    _store_half(heads[..., 2:4], scales, 32)
    scales[:, :, 64:].reshape(*scales.shape[:2], 12, STRIP_ROWS)[...] = heads[..., 4:].swapaxes(2, 3)
    # A run of 32 bytes holds two groups: the low nibbles are one, the high nibbles the next.
    runs = np.ascontiguousarray(blocks[..., 16:]).view(np.uint32).reshape(*blocks.shape[:3], 4, 2, 4)
    put_quads(_nibble_planes(runs), plane_words(planes, 4), 0)


def store_q6_k(blocks: Bytes, scales: Bytes, planes: Bytes) -> None:
    """Write Q6_K blocks [S, R, G, 210] as scales [S, G, 288] and planes [S, G * 3072]."""
    tails = blocks[..., 192:].transpose(0, 2, 1, 3)
    _store_half(tails[..., 16:18], scales, 0)
    scales[:, :, 32:].reshape(*scales.shape[:2], 16, STRIP_ROWS)[...] = tails[..., :16].swapaxes(2, 3)
    words = plane_words(planes, 6)
    low = np.ascontiguousarray(blocks[..., :128]).view(np.uint32).reshape(*blocks.shape[:3], 2, 2, 2, 4)
    # A run of 64 bytes holds groups 0 and 1 in its low nibbles, 2 and 3 in its high ones.
    nibbles = np.empty((*blocks.shape[:3], 2, 2, 2, 4), np.uint32)
    first, second = low[..., 0, :], low[..., 1, :]
    np.bitwise_or(first & _LOW, (second & _LOW) << 4, out=nibbles[..., 0, :, :])
    np.bitwise_or(first >> 4 & _LOW, second & ~_LOW, out=nibbles[..., 1, :, :])
    put_quads(nibbles.reshape(*blocks.shape[:2], -1, 4), words, 0)
    put_quads(_pair_planes(np.ascontiguousarray(blocks[..., 128:192])), words, 64)


def _nibble_planes(runs: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Runs [S, R, G, 4, 2 halves, 4] of two groups each, as 4-bit planes [S, R, G * 8, 4]."""
    planes = np.empty((*runs.shape[:4], 2, 4), np.uint32)
    first, second = runs[..., 0, :], runs[..., 1, :]
    np.bitwise_or(first & _LOW, (second & _LOW) << 4, out=planes[..., 0, :])
    np.bitwise_or(first >> 4 & _LOW, second & ~_LOW, out=planes[..., 1, :])
    return planes.reshape(*runs.shape[:2], -1, 4)


def _pair_planes(high: Bytes) -> NDArray[np.uint32]:
    """Q6_K's high bits [S, R, G, 64]: run n, byte c, field k is column c of group 4n + k. Planes [S, R, G * 8, 2]."""
    runs = high.view(np.uint32).reshape(*high.shape[:3], 2, 4, 2)
    planes = np.zeros((*high.shape[:3], 2, 4, 2), np.uint32)
    for group in range(4):
        for field in range(4):
            pairs = runs[..., field, :] >> (2 * group) & _PAIR
            pairs <<= 2 * field
            planes[..., group, :] |= pairs
    return planes.reshape(*high.shape[:2], -1, 2)


def _store_half(halves: Bytes, scales: Bytes, first: int) -> None:
    """Write the two bytes [S, G, R, 2] of one float16 per row at byte `first`."""
    scales[:, :, first : first + 32].reshape(*scales.shape[:2], STRIP_ROWS, 2)[...] = halves


def _load_half(scales: Bytes, first: int) -> Floats:
    """One float16 per row as float32 [S, R, G, 1]."""
    halves = np.ascontiguousarray(scales[:, :, first : first + 32]).view(np.float16)
    return halves.transpose(0, 2, 1)[..., None].astype(np.float32)


def load_q4_k(scales: Bytes, planes: Bytes) -> Floats:
    """Values float32 [S, R, G * 256] of scales [S, G, 256] and planes [S, G * 2048]."""
    strips, groups, _ = scales.shape
    packed = scales[:, :, 64:].reshape(strips, groups, 12, STRIP_ROWS).transpose(0, 3, 1, 2)
    steps, minima = six_bit_scales(np.ascontiguousarray(packed).reshape(-1, 12))
    shape = (strips, STRIP_ROWS, groups, 8)
    values = load_codes(planes, 4).astype(np.float32)
    grouped = values.reshape(*shape, 32)
    grouped *= (_load_half(scales, 0) * steps.reshape(shape))[..., None]
    grouped -= (_load_half(scales, 32) * minima.reshape(shape))[..., None]
    return values


def load_q6_k(scales: Bytes, planes: Bytes) -> Floats:
    """Values float32 [S, R, G * 256] of scales [S, G, 288] and planes [S, G * 3072]."""
    strips, groups, _ = scales.shape
    steps = scales[:, :, 32:].reshape(strips, groups, 16, STRIP_ROWS).transpose(0, 3, 1, 2).view(np.int8)
    values = load_codes(planes, 6).astype(np.float32)
    values -= np.float32(32)
    grouped = values.reshape(strips, STRIP_ROWS, groups, 16, 16)
    grouped *= (_load_half(scales, 0) * steps)[..., None]
    return values
