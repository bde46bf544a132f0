"""Drawn weights, already in the form of a file: rows of GGUF blocks or floats, a few million values at a time.

Block formats get random codes under scales that give the wanted spread; their sign is random too, so that the mean is
zero. Such weights keep logits finite and prove only work that does not depend on values.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pintpot.formats import encoding
from pintpot.formats.source import decode

Bytes = NDArray[np.uint8]

_CHUNK_VALUES = 1 << 22
# Byte offsets of a block's scale and of its minimum (its sign, and the code in the middle that it has to cancel).
_SCALES: dict[str, tuple[int, int | None, float]] = {
    "q4_0": (0, None, 0), "q5_0": (0, None, 0), "q8_0": (0, None, 0), "q4_1": (0, 2, -7.5), "q5_1": (0, 2, -15.5),
    "q2_k": (80, 82, 1.5), "q3_k": (108, None, 0), "q4_k": (0, 2, 7.5), "q5_k": (0, 2, 15.5), "q6_k": (208, None, 0),
}  # fmt: skip


def drawn_rows(name: str, rows: int, columns: int, std: float, seed: tuple[int, ...]) -> Iterator[Bytes]:
    """Values of about zero mean and spread `std` in encoding `name`: uint8 [some rows, row_bytes] at a time."""
    rng = np.random.Generator(np.random.SFC64(seed))
    step = max(1, _CHUNK_VALUES // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        if encoding(name).kind == "float":
            yield _floats(name, rng.standard_normal((count, columns), np.float32) * np.float32(std))
        else:
            yield _blocks(name, count, columns, std / _unit_std(name), rng)


def constant_row(name: str, columns: int, value: float) -> Iterator[Bytes]:
    """One row of equal values, for norms."""
    yield _floats(name, np.full((1, columns), value, np.float32))


def _floats(name: str, values: NDArray[np.float32]) -> Bytes:
    if name == "bf16":
        words = values.view(np.uint32)
        return ((words + np.uint32(0x8000)) >> 16).astype(np.uint16).view(np.uint8)
    return values.astype(np.float16).view(np.uint8) if name == "f16" else values.view(np.uint8)


def _blocks(name: str, rows: int, columns: int, scale: float, rng: np.random.Generator) -> Bytes:
    found = encoding(name)
    row_bytes = found.row_bytes(columns)
    words = rng.integers(0, 2**64, -(-rows * row_bytes // 8), dtype=np.uint64)
    raw = words.view(np.uint8)[: rows * row_bytes].reshape(rows, -1, found.block_bytes)
    drawn = rng.uniform(0.75 * scale, 1.25 * scale, raw.shape[:2]) * rng.choice((-1.0, 1.0), raw.shape[:2])
    scale_at, minimum_at, middle = _SCALES[name]
    raw[..., scale_at : scale_at + 2] = drawn.astype(np.float16)[..., None].view(np.uint8)
    if minimum_at is not None:
        raw[..., minimum_at : minimum_at + 2] = (middle * drawn).astype(np.float16)[..., None].view(np.uint8)
    return raw.reshape(rows, row_bytes)


@cache
def _unit_std(name: str) -> float:
    """The spread of random codes under a scale of 1."""
    raw = _blocks(name, 64, 1024, 1.0, np.random.Generator(np.random.SFC64(0)))
    return float(decode(raw, name, 1024).std())
