"""Two of four: of any four columns side by side two codes at most are not that of zero, and two are written.

Shapes: S strips, R = 16 rows, G groups of 32 columns, Q quads of a group. A four of columns is a word of 32 bits, as
are four kept codes: of the fours 2e and 2e + 1 of a group, in quad e (docs/layout.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.formats.planes import QUADS, Bytes, Words, load_quads, plane_words, store_quads
from pintpot.formats.registry import STRIP_ROWS

_KEPT_QUADS = QUADS // 2
_PLACE_BITS = 2
_BYTE = np.uint32(255)

# By which of four codes are not zero, bit by bit: the places of the two that are written, and whether there are more.
_BITS = np.arange(16)[:, None] >> np.arange(4) & 1
_ORDER = np.sort(np.argsort(-_BITS, axis=1, kind="stable")[:, :2], axis=1)
_FIRST, _SECOND = (_ORDER[:, i].astype(np.uint8) for i in (0, 1))
_TOO_MANY = _BITS.sum(axis=1) > 2


def is_two_four(values: NDArray[np.float32]) -> bool:
    """Whether rows [N, K] have two values at most that are not zero among every four side by side."""
    rows, columns = values.shape
    fours = (values[:, : columns // 4 * 4] != 0).reshape(rows, -1, 4)
    rest = (values[:, columns // 4 * 4 :] != 0).sum(axis=1)
    return not bool((fours.sum(axis=2) > 2).any() or (rest > 2).any())


def store_kept(codes: Bytes, bits: int, out: Bytes) -> None:
    """Write codes [S, R, G * 32], that of zero 2**(bits - 1), into the planes `out` [S, G * (32 * bits + 64)].

    Raises BadInput, with the number of such fours, where more than two are not zero.
    """
    words = codes.view(np.uint32).reshape(len(codes), STRIP_ROWS, -1, QUADS)
    there = (codes != 1 << bits - 1).view(np.uint32).reshape(words.shape)
    which = ((there * np.uint32(0x01020408)) >> np.uint32(24)).astype(np.uint8)  # bit i: of column i
    too_many = int(np.count_nonzero(_TOO_MANY[which]))
    need(too_many == 0, f"of {too_many} fours of columns side by side more than two weights are not zero")
    first, second = _FIRST[which], _SECOND[which]
    kept = words >> (first.astype(np.uint32) << np.uint32(3)) & _BYTE
    kept |= (words >> (second.astype(np.uint32) << np.uint32(3)) & _BYTE) << np.uint32(8)
    target = plane_words(out, bits / 2 + 1)
    store_quads(_in_quads(kept.astype(np.uint16)), bits, target, 0)
    places = first.astype(np.uint16) | second.astype(np.uint16) << np.uint16(8)
    store_quads(_in_quads(places), _PLACE_BITS, target, 8 * bits)


def load_kept(planes: Bytes, bits: int) -> Bytes:
    """Codes [S, R, G * 32] of such planes."""
    words = plane_words(planes, bits / 2 + 1)
    kept = load_quads(words, bits, _KEPT_QUADS, 0).view(np.uint16)
    places = load_quads(words, _PLACE_BITS, _KEPT_QUADS, 8 * bits).view(np.uint16)
    zero = 1 << bits - 1
    found = np.full(kept.shape, zero * 0x01010101, np.uint32)
    for low in (0, 8):
        away = (kept >> np.uint16(low) & np.uint16(255)).astype(np.uint32) - np.uint32(zero)
        found += away << ((places >> np.uint16(low) & np.uint16(3)).astype(np.uint32) << np.uint32(3))
    return found.view(np.uint8).reshape(len(planes), STRIP_ROWS, -1)


def _in_quads(pairs: NDArray[np.uint16]) -> Words:
    """Two of each four [S, R, G, 8] as words of four [S, R, G, 4]."""
    return np.ascontiguousarray(pairs).view(np.uint32)
