"""Products of the same rows with several weights [N, K], and with an adapter beside each that has one.

A product is computed in the dtype of its weights, what adapters add in float32. Going back, a weight that does not
learn is taken from where it lies then, so that none is held meanwhile; rows are made again where something wants them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pintpot.kernels.torch import passes
from pintpot.kernels.torch.room import room
from pintpot.kernels.torch.rows import Remake
from pintpot.kernels.torch.two_four import two_of_four

ROWS = 512
"""Rows that are multiplied at a time: more of them leave the caches between two products."""


@dataclass(frozen=True)
class Beside:
    """The weights by the names under which they are `lent` to a block, and how large adapters are added.

    Weights learn by gradients of which two of four are drawn where these are `estimated`.
    """

    lent: Mapping[str, torch.Tensor]
    names: tuple[str, ...]
    scale: float
    remake: Remake | None = None
    estimated: bool = False


def products(
    rows: torch.Tensor,
    beside: Beside,
    learns: Sequence[torch.Tensor | None],
    adapters: Sequence[tuple[torch.Tensor, torch.Tensor] | None],
) -> tuple[torch.Tensor, ...]:
    """rows W^T + scale (rows A^T) B^T of each weight: [T, N] each; A [r, K] and B [N, r], or None.

    What stands for a weight that `learns` is given its gradient, and need not hold its values.
    """
    sides = [side for pair in adapters for side in (pair or (None, None))]
    given: tuple[torch.Tensor, ...] = _Products.apply(rows, beside, *learns, *sides)  # type: ignore[no-untyped-call]
    return given


def times(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """rows [T, K] times weight [K, N]."""
    out = room((len(rows), weight.shape[1]), rows.dtype)
    for first in range(0, len(rows), ROWS):
        torch.mm(rows[first : first + ROWS], weight, out=out[first : first + ROWS])
    return out


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, beside: Beside, *others: torch.Tensor | None) -> Any:
        count = len(beside.names)
        sides, inner = others[count:], []
        made = [times(rows, beside.lent[name].T) for name in beside.names]
        for out, a, b in zip(made, sides[::2], sides[1::2], strict=True):
            if a is not None and b is not None:
                inner.append(passes.thin_products(rows, a))
                passes.add_thin(out, inner[-1], b.T, beside.scale)
        kept: tuple[torch.Tensor, ...] = ()
        if any(one is not None for one in others):
            kept = (rows,) if beside.remake is None else beside.remake.tensors
        ctx.save_for_backward(*sides, *inner, *kept)
        # What the rows were made of is not held here a second time.
        ctx.make = None if beside.remake is None else beside.remake.make
        ctx.beside, ctx.num_inner = replace(beside, remake=None), len(inner)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        beside, count = ctx.beside, len(ctx.beside.names)
        saved = ctx.saved_tensors
        sides, rest = saved[: 2 * count], list(saved[2 * count :])
        wanted = ctx.needs_input_grad
        kept, rows = rest[ctx.num_inner :], None
        if any(wanted[2:]):
            rows = kept[0] if ctx.make is None else ctx.make(*kept)
        back = _Back(beside, rows, wanted[0])
        learned = [
            back.weight(name, grad, wanted[2 + at])
            for at, (name, grad) in enumerate(zip(beside.names, grads, strict=True))
        ]
        found: list[torch.Tensor | None] = []
        for a, b, grad in zip(sides[::2], sides[1::2], grads, strict=True):
            found += (None, None) if a is None else back.adapter(a, b, grad, rest.pop(0))
        return (back.total, None, *learned, *found)


class _Back:
    """The way back through the products of some rows; `total` are the gradients of these rows so far."""

    def __init__(self, beside: Beside, rows: torch.Tensor | None, wants_rows: bool) -> None:
        self._beside, self._rows, self._wants_rows = beside, rows, wants_rows
        self.total: torch.Tensor | None = None

    def weight(self, name: str, grad: torch.Tensor | None, learns: bool) -> torch.Tensor | None:
        """Adds what goes through a weight; its own gradient where it `learns`."""
        if grad is None:
            return None
        if self._wants_rows:
            weight = self._beside.lent[name]
            if self.total is None:
                self.total = times(grad, weight)
            else:
                for first in range(0, len(grad), ROWS):
                    self.total[first : first + ROWS].addmm_(grad[first : first + ROWS], weight)
        if not learns or self._rows is None:
            return None
        grad = two_of_four(grad) if self._beside.estimated else grad
        return torch.mm(grad.T, self._rows, out=room((grad.shape[1], self._rows.shape[1]), grad.dtype))

    def adapter(
        self, a: torch.Tensor, b: torch.Tensor, grad: torch.Tensor | None, inner: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The gradients of A and B; adds what goes through them."""
        if grad is None:
            return None, None
        narrow = passes.thin_products(grad, b.T, self._beside.scale)
        if self.total is not None:
            passes.add_thin(self.total, narrow, a)
        if self._rows is None:  # both rest, and what goes through them does not
            return None, None
        return passes.thin_sums(self._rows, narrow), passes.thin_sums(grad, inner, self._beside.scale).T
