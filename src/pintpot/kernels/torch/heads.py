"""Heads of an attention that learns, and the native passes over them: see `native/kernels/learn.h`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pintpot._native import learn
from pintpot.kernels.torch.passes import threads
from pintpot.kernels.torch.room import room

MOST_COLUMNS = 256
"""Of a head whose attention is one native pass."""


@dataclass(frozen=True)
class Heads:
    """`angles` makes [B, S, rope_dim], cosines and sines by which q and k are turned (`layout`: "half", "interleaved").

    `lowest` makes the first key that each query sees, int32 [B, S], or None where all see everything earlier. `scale`
    multiplies scores.
    """

    heads: int
    kv_heads: int
    scale: float
    angles: Callable[[], torch.Tensor]
    layout: str
    lowest: Callable[[], torch.Tensor | None]


def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, how: Heads) -> torch.Tensor:
    """q [B, S, H, hd], k and v [B, S, KV, hd], bfloat16 -> [B, S, H, hd]."""
    given = _Given(q, k, v, how)
    out = room(tuple(q.shape), torch.bfloat16)
    given.call.forward(given.pool, out.data_ptr(), given.scratch.data_ptr())
    return out


def back(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor, how: Heads
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """From gradients [B, S, H, hd] those of q, k and v."""
    given, grad = _Given(q, k, v, how), grad.to(torch.bfloat16).contiguous()
    if grad.shape != q.shape:
        raise TypeError(f"gradients {tuple(grad.shape)} of heads {tuple(q.shape)}")
    by_q, by_k, by_v = (room(tuple(one.shape), torch.bfloat16) for one in (q, k, v))
    by = by_q.data_ptr(), by_k.data_ptr(), by_v.data_ptr()
    given.call.back(given.pool, grad.data_ptr(), by, given.scratch.data_ptr())
    return by_q, by_k, by_v


class _Given:
    """A call, and what it reads for as long as it runs."""

    def __init__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, how: Heads) -> None:
        count, length, _, columns = q.shape
        self._angles, lowest = how.angles().float().contiguous(), how.lowest()
        self._read = [one.detach().to(torch.bfloat16).contiguous() for one in (q, k, v)]
        self._lowest = None if lowest is None else lowest.to(torch.int32).contiguous()
        several, one = (count, length, how.heads, columns), (count, length, how.kv_heads, columns)
        if (*(part.shape for part in self._read), self._angles.shape[:2]) != (several, one, one, (count, length)):
            raise TypeError(f"no heads of {several} and {one}: {[tuple(part.shape) for part in self._read]}")
        if self._lowest is not None and self._lowest.shape != (count, length):
            raise TypeError(f"lowest keys {tuple(self._lowest.shape)} of {(count, length)} queries")
        knobs = count, length, how.heads, how.kv_heads, columns, self._angles.shape[-1]
        self.call = learn.Attention(*knobs, how.layout == "interleaved", how.scale)
        at = [one.data_ptr() for one in self._read]
        self.call.read(*at, self._angles.data_ptr(), 0 if self._lowest is None else self._lowest.data_ptr())
        self.pool = threads()
        self.scratch = room((self.call.scratch_bytes() * self.pool.size,), torch.uint8)
