"""The two means that AdamW keeps of what learns, in float32 or in 8 bits (Dettmers et al. 2021, arXiv:2110.02861).

In 8 bits a value is the number of a level, times the largest magnitude among the 256 values of its block. Levels are
denser the nearer to zero, a power of ten at a time, and evenly spaced within one. The mean of squares has no level 0:
a step divides by its root, and what is small must not become nothing (Li et al. 2023, arXiv:2309.01507).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache
from typing import final

import torch

from pintpot.contract.training import DYNAMIC8, MOMENTS, SCALES, STATE_BLOCK, TrainingForm

CHUNK = 1024 * STATE_BLOCK
"""Values that are updated at a time: a few float32 copies of them stay in the caches."""
_BITS = 16
_LEAST = 2.0**-126


class Moments(ABC):
    """Both means of one tensor, as flat float32 values on loan: `read` some, change them in place, `write` them."""

    @abstractmethod
    def read(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Means m and v of the values in `part`, which begins at a whole block of them."""

    @abstractmethod
    def write(self, part: slice, m: torch.Tensor, v: torch.Tensor) -> None:
        """Keep what was read, changed."""

    @abstractmethod
    def tensors(self, name: str) -> Mapping[str, torch.Tensor]:
        """Everything that is kept, for a tensor of this name."""


def chunks(num_values: int) -> Iterator[slice]:
    """The parts of so many values that are updated at a time."""
    for first in range(0, num_values, CHUNK):
        yield slice(first, min(first + CHUNK, num_values))


def moments_of(value: torch.Tensor, states: str) -> Moments:
    """Means of zeros, as the form of a training says (`TrainingForm.states`)."""
    if states != DYNAMIC8 or value.dim() == 1:
        return Exact(torch.zeros_like(value), torch.zeros_like(value))
    found = TrainingForm(states=DYNAMIC8).moments_of("", tuple(value.shape))
    kinds = {"uint8": torch.uint8, "f32": torch.float32}
    return EightBit({name: torch.zeros(shape, dtype=kinds[form]) for name, (shape, form) in found.items()})


def moments_in(memory: torch.Tensor, num_values: int, states: str) -> Moments:
    """Means of so many values of a matrix that lie one after the other in bytes of memory: uint8 [record bytes]."""
    if states != DYNAMIC8:
        both = memory[: 8 * num_values].view(torch.float32).view(2, num_values)
        return Exact(both[0], both[1])
    blocks = -(-num_values // STATE_BLOCK)
    codes = memory[: 2 * num_values].view(2, num_values)
    scales = memory[2 * num_values : 2 * num_values + 8 * blocks].view(torch.float32).view(2, blocks)
    kept = dict(zip(MOMENTS, codes, strict=True))
    return EightBit(kept | {name + SCALES: one for name, one in zip(MOMENTS, scales, strict=True)})


@final
class Exact(Moments):
    """In float32."""

    def __init__(self, m: torch.Tensor, v: torch.Tensor) -> None:
        self._both = m, v

    def read(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        m, v = self._both
        return m.view(-1)[part], v.view(-1)[part]

    def write(self, part: slice, m: torch.Tensor, v: torch.Tensor) -> None:
        """They were changed where they lie."""

    def tensors(self, name: str) -> Mapping[str, torch.Tensor]:
        return {name + end: one for end, one in zip(MOMENTS, self._both, strict=True)}


@final
class EightBit(Moments):
    """As codes and scales."""

    def __init__(self, kept: Mapping[str, torch.Tensor]) -> None:
        self._kept = kept

    def read(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        m, v = (decode(*self._of(moment, part), signed=moment == MOMENTS[0]) for moment in MOMENTS)
        return m, v

    def write(self, part: slice, m: torch.Tensor, v: torch.Tensor) -> None:
        for moment, values in zip(MOMENTS, (m, v), strict=True):
            for kept, new in zip(self._of(moment, part), encode(values, signed=moment == MOMENTS[0]), strict=True):
                kept.copy_(new)

    def tensors(self, name: str) -> Mapping[str, torch.Tensor]:
        return {name + end: one for end, one in self._kept.items()}

    def _of(self, moment: str, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and scales of a part."""
        blocks = slice(part.start // STATE_BLOCK, -(-part.stop // STATE_BLOCK))
        return self._kept[moment].view(-1)[part], self._kept[moment + SCALES][blocks]


@cache
def levels(signed: bool) -> torch.Tensor:
    """The levels in rising order, float32, the largest 1: 255 and their negatives' mirror if `signed`, 256 without 0.

    Of each power of ten there are half as many as of the one above it.
    """
    counts = [2 ** (6 - tens) for tens in range(6)] if signed else [2 ** (7 - tens) for tens in range(8)]
    above = [
        (0.1 + 0.9 * (index + 0.5) / count) / 10**tens for tens, count in enumerate(counts) for index in range(count)
    ]
    above = sorted([*above, 1.0])
    return torch.tensor([-one for one in reversed(above)] + [0.0] + above if signed else above, dtype=torch.float32)


@cache
def _nearest(signed: bool) -> torch.Tensor:
    """The number of the nearest level of every value that 16 bits write (bfloat16), uint8 [65536]."""
    known = levels(signed).double()
    bits = torch.arange(1 << _BITS, dtype=torch.int32)
    values = (bits << _BITS).view(torch.float32).double()
    return torch.bucketize(values.nan_to_num(0.0), (known[1:] + known[:-1]) / 2).to(torch.uint8)


def encode(values: torch.Tensor, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes uint8 [n] of values float32 [n], and scales float32, one for each block of 256 and for what is left."""
    whole = len(values) // STATE_BLOCK * STATE_BLOCK
    parts = [values[:whole].view(-1, STATE_BLOCK), values[whole:].view(1, -1)]
    codes, scales = [], []
    for part in parts:
        if part.numel():
            scale = part.abs().amax(dim=1)
            shares = (part / scale.clamp_min(_LEAST)[:, None]).to(torch.bfloat16).view(torch.uint16)
            codes.append(_nearest(signed).index_select(0, shares.view(-1).to(torch.int32)))
            scales.append(scale)
    return torch.cat(codes), torch.cat(scales)


def decode(codes: torch.Tensor, scales: torch.Tensor, signed: bool) -> torch.Tensor:
    """What codes [n] and their scales say, float32 [n]."""
    values = levels(signed).index_select(0, codes.to(torch.int32))
    whole = len(codes) // STATE_BLOCK * STATE_BLOCK
    values[:whole].view(-1, STATE_BLOCK).mul_(scales[: whole // STATE_BLOCK, None])
    values[whole:].mul_(scales[-1])
    return values
