"""Causal attention with a way back, some queries at a time: scores of a tile stay in the caches and are never kept.

What lasts until the way back are q, k and v as they came; they are turned, and scores computed, once more
(FlashAttention, Dao et al. 2022, arXiv:2205.14135). In bfloat16 all of it is one native pass, in float32 products are
PyTorch's. B sequences of S tokens, H heads of hd columns, of which KV have keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pintpot.kernels.torch import heads
from pintpot.kernels.torch.heads import Heads
from pintpot.kernels.torch.room import copied, room

SCORES = 1 << 20
"""Scores of all heads that are computed at a time."""
LEAST = 16


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, how: Heads) -> torch.Tensor:
    """q [B, S, H, hd], k and v [B, S, KV, hd] -> [B, S, H, hd] in their dtype."""
    given: torch.Tensor = _Attention.apply(q, k, v, how)  # type: ignore[no-untyped-call]
    return given


def hidden(lowest: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """What is added to scores [B, 1, S, S] so that nobody sees a later token, or one before the lowest [B, S]."""
    if lowest is None:
        return None
    at = torch.arange(length)
    seen = (at[None, :] <= at[:, None]) & (at >= lowest[:, :, None])
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))[:, None]


def turned(x: torch.Tensor, angles: torch.Tensor, layout: str, back: bool = False) -> torch.Tensor:
    """Pairs of x [B, S, H, hd] turned by angles [B, S, rope_dim], or `back` again: float32, of the same shape."""
    half = angles.shape[-1] // 2
    cos, sin = angles[:, :, None, :half], angles[:, :, None, half:]
    first, second = _halves(layout, half)
    values, out = copied(x, torch.float32), room(tuple(x.shape))
    one, two = values[..., first], values[..., second]
    sin = -sin if back else sin
    torch.mul(one, cos, out=out[..., first]).addcmul_(two, sin, value=-1)
    torch.mul(two, cos, out=out[..., second]).addcmul_(one, sin)
    if x.shape[-1] > 2 * half:
        out[..., 2 * half :] = values[..., 2 * half :]
    return out


def _halves(layout: str, half: int) -> tuple[slice, slice]:
    if layout == "half":
        return slice(0, half), slice(half, 2 * half)
    return slice(0, 2 * half, 2), slice(1, 2 * half, 2)


class _Turned:
    """q, k and v, turned, each head's rows together: float32 [B KV, H / KV, S, hd] and [B KV, S, hd]."""

    def __init__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, how: Heads) -> None:
        (self._count, self._length, _, self._columns), self._how = q.shape, how
        self._groups, self._hidden = how.heads // how.kv_heads, hidden(how.lowest(), q.shape[1])
        self._angles = how.angles()
        self.q = self.apart(turned(q, self._angles, how.layout).mul_(how.scale))
        self.k = self.apart(turned(k, self._angles, how.layout))[:, 0]
        self.v = self.apart(v)[:, 0]

    def apart(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, n KV, hd] as [B KV, n, S, hd]."""
        heads = x.transpose(1, 2)
        heads = room(tuple(heads.shape)).copy_(heads)
        return heads.view(self._count * self._how.kv_heads, -1, self._length, self._columns)

    def together(self, x: torch.Tensor) -> torch.Tensor:
        """The other way round."""
        return x.view(self._count, -1, self._length, self._columns).transpose(1, 2)

    def tiles(self) -> Iterator[tuple[slice, int]]:
        """Queries that are computed together, and how many keys they see."""
        size = max(LEAST, SCORES // (self._count * self._how.heads * self._length))
        size = 1 << (size.bit_length() - 1)
        for first in range(0, self._length, size):
            stop = min(first + size, self._length)
            yield slice(first, stop), stop

    def rows(self, x: torch.Tensor, tile: slice) -> torch.Tensor:
        """Those of a tile, of all heads that share a key: [B KV, H / KV t, hd]."""
        return x[:, :, tile].reshape(len(x), -1, self._columns)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """The other way round: [B KV, H / KV, t, hd]."""
        return x.view(len(x), self._groups, -1, x.shape[-1])

    def shares(self, tile: slice, seen: int) -> torch.Tensor:
        """The softmax of a tile's scores: [B KV, H / KV t, seen]."""
        scores = _times(self.rows(self.q, tile), self.k[:, :seen].transpose(1, 2))
        hidden, size = self._hidden, tile.stop - tile.start
        if hidden is None:
            self.heads(scores)[..., tile].add_(torch.full((size, size), -torch.inf).triu_(1))
        else:
            apart = scores.view(self._count, -1, size, seen)
            apart.add_(hidden[:, :, tile, :seen])
        return torch.softmax(scores, dim=-1, out=room(tuple(scores.shape)))

    def forward(self) -> torch.Tensor:
        """What every query is given: [B, S, H, hd]."""
        out = room(tuple(self.q.shape))
        for tile, seen in self.tiles():
            out[:, :, tile] = self.heads(_times(self.shares(tile, seen), self.v[:, :seen]))
        return self.together(out)

    def back(self, grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From gradients [B, S, H, hd] those of q, k and v, of their shapes."""
        by_q, by_k, by_v = room(tuple(self.q.shape)), torch.zeros_like(self.k), torch.zeros_like(self.k)
        wanted = self.apart(grads)
        for tile, seen in self.tiles():
            own, shares = self.rows(wanted, tile), self.shares(tile, seen)
            by_v[:, :seen].baddbmm_(shares.transpose(1, 2), own)
            pulled = _times(own, self.v[:, :seen].transpose(1, 2))
            back = torch.ops.aten._softmax_backward_data.out
            pulled = back(pulled, shares, -1, torch.float32, grad_input=room(tuple(pulled.shape)))
            by_q[:, :, tile] = self.heads(_times(pulled, self.k[:, :seen]))
            by_k[:, :seen].baddbmm_(pulled.transpose(1, 2), self.rows(self.q, tile))
        by_q.mul_(self._how.scale)
        first, second = (turned(self.together(one), self._angles, self._how.layout, back=True) for one in (by_q, by_k))
        return first, second, self.together(by_v)


def _times(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.bmm(one, other, out=room((len(one), one.shape[1], other.shape[2])))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, how: Heads) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.how = how
        if _natively(q):
            return heads.forward(q, k, v, how)
        given = _Turned(q, k, v, how).forward()
        return room(tuple(given.shape), q.dtype).copy_(given)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        if _natively(q):
            return *heads.back(q, k, v, grads[0], ctx.how), None
        return *(copied(one, q.dtype) for one in _Turned(q, k, v, ctx.how).back(grads[0])), None


def _natively(q: torch.Tensor) -> bool:
    return q.dtype == torch.bfloat16 and q.shape[-1] <= heads.MOST_COLUMNS
