"""Noise as PyTorch draws it from a seed on a CPU, without PyTorch: the same seed, the same picture as in diffusers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16
"""PyTorch makes so many values at once: of two uniform ones each, half a block apart (Box and Muller 1958)."""


def normal(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """What `torch.randn(shape, generator=torch.Generator().manual_seed(seed))` gives, up to the last bit of a cosine.

    At least 16 values; the seed's lowest 32 bits count, as they do there.
    """
    count = int(np.prod(shape))
    if count < _BLOCK:
        raise ValueError(f"{count} values are drawn in another way")
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    found = _uniform(twister, count)
    whole = count // _BLOCK * _BLOCK
    found[:whole] = _turned(found[:whole])
    if whole < count:
        found[-_BLOCK:] = _turned(_uniform(twister, _BLOCK))
    return found.reshape(shape)


def _uniform(twister: np.random.RandomState, count: int) -> NDArray[np.float32]:
    bits = twister.randint(0, 1 << 32, count, dtype=np.uint32)
    return (bits & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)


def _turned(uniform: NDArray[np.float32]) -> NDArray[np.float32]:
    pairs = uniform.reshape(-1, 2, _BLOCK // 2)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - pairs[:, 0]))
    angle = np.float32(2 * np.pi) * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1).astype(np.float32)
