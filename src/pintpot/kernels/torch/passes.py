"""Passes over rows between the products of a step that learns: the native ones, on PyTorch's own threads.

Rows are float32 or bfloat16, and contiguous; what is computed between reading and writing them is float32. T rows of D
columns; a thin matrix has r rows, few of them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from pintpot._native import Pool, learn
from pintpot.formats import STRIP_ROWS
from pintpot.kernels.torch.room import room
from pintpot.kernels.torch.threads import fork_address

Typed = tuple[int, bool]


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in `dtype`."""
    x, weight, out = _whole(x), _exact(weight), room(tuple(x.shape), dtype)
    learn.norm(threads(), _typed(x), weight.data_ptr(), _typed(out), x.numel() // len(weight), len(weight), eps)
    return out


def norm_back(
    x: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor, eps: float, wanted: tuple[bool, bool]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """From gradients of what `norm` gave those of x, in its dtype, and of the weight [D], each where it is wanted."""
    x, exact, grad = _whole(x), _exact(weight), _whole(grad)
    by_x = room(tuple(x.shape), x.dtype) if wanted[0] else None
    by_weight = torch.empty(len(weight)) if wanted[1] else None
    at = [0 if one is None else one.data_ptr() for one in (by_x, by_weight)]
    rows = x.numel() // len(weight)
    learn.norm_back(threads(), _typed(x), exact.data_ptr(), _typed(grad), at[0], at[1], rows, len(weight), eps)
    return by_x, None if by_weight is None else by_weight.to(weight.dtype)


def gate(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    """act(gate) * up, in their dtype."""
    gate, up = _whole(gate), _alike(up, gate)
    out = room(tuple(gate.shape), gate.dtype)
    learn.gate(threads(), kind, gate.data_ptr(), up.data_ptr(), _typed(out), gate.numel())
    return out


def gate_back(gate: torch.Tensor, up: torch.Tensor, grad: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """From gradients of what `gate` gave those of both."""
    gate, up, grad = _whole(gate), _alike(up, gate), _alike(grad, gate)
    by_gate, by_up = (room(tuple(gate.shape), gate.dtype) for _ in range(2))
    by = by_gate.data_ptr(), by_up.data_ptr()
    learn.gate_back(threads(), kind, gate.data_ptr(), up.data_ptr(), _typed(grad), *by, gate.numel())
    return by_gate, by_up


def join(made: torch.Tensor, states: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """float32 states + made; `out` may be these states, if nothing lies between their values."""
    made, states = _whole(made), _exact(states)
    if made.shape != states.shape:
        raise TypeError(f"{tuple(made.shape)} is added to states {tuple(states.shape)}")
    out = room(tuple(states.shape)) if out is None else out
    if out.shape != states.shape or out.dtype != torch.float32 or not out.is_contiguous():
        raise TypeError(f"no float32 rows {tuple(states.shape)} to write: {out.dtype} {tuple(out.shape)}")
    learn.join(threads(), _typed(made), states.data_ptr(), out.data_ptr(), states.numel())
    return out


def thin_products(x: torch.Tensor, thin: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """scale x thin^T of rows x [T, D] and a thin [r, D]: float32 [T, r]."""
    x, thin = _whole(x), _exact(thin)
    inner = room((len(x), len(thin)))
    learn.thin_products(threads(), _typed(x), thin.data_ptr(), inner.data_ptr(), *x.shape, len(thin), scale)
    return inner


def add_thin(x: torch.Tensor, inner: torch.Tensor, thin: torch.Tensor, scale: float = 1.0) -> None:
    """x [T, D] += scale inner thin, of inner [T, r] and a thin [r, D]."""
    if _whole(x).data_ptr() != x.data_ptr():
        raise TypeError("rows that something is added to lie one after the other")
    inner, thin = _exact(inner), _exact(thin)
    learn.thin_added(threads(), _typed(x), thin.data_ptr(), inner.data_ptr(), *x.shape, len(thin), scale)


def thin_sums(x: torch.Tensor, inner: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """scale inner^T x of inner [T, r] and rows x [T, D]: float32 [r, D]."""
    x, inner = _whole(x), _exact(inner)
    thin = room((inner.shape[1], x.shape[1]))
    learn.thin_sums(threads(), _typed(x), inner.data_ptr(), thin.data_ptr(), *x.shape, len(thin), scale)
    return thin


def expand(strips: NDArray[np.uint8], name: str, first: int, out: torch.Tensor) -> None:
    """Rows from `first` on of a matrix in strips [S, bytes] of a format to `out` [n, K], by the thread that calls."""
    if first + len(out) > STRIP_ROWS * len(strips) or not out.is_contiguous() or not strips.flags.c_contiguous:
        raise TypeError(f"{len(strips)} strips have no rows {first} to {first + len(out)}, one after the other")
    learn.expand(name, strips.ctypes.data, out.shape[1], first, first + len(out), _typed(out))


def threads() -> Pool:
    """PyTorch's threads, as many as it has now."""
    return _pool(torch.get_num_threads())


@cache
def _pool(count: int) -> Pool:
    return Pool(count, fork=fork_address())


def _whole(x: torch.Tensor) -> torch.Tensor:
    """Rows as they are read."""
    if x.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"rows are float32 or bfloat16, not {x.dtype}")
    return x.detach().contiguous()


def _alike(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The same of what goes with other rows."""
    if x.shape != other.shape:
        raise TypeError(f"{tuple(x.shape)} goes with {tuple(other.shape)}")
    return _whole(x.to(other.dtype))


def _exact(x: torch.Tensor) -> torch.Tensor:
    return x.detach().to(torch.float32).contiguous()


def _typed(x: torch.Tensor) -> Typed:
    return x.data_ptr(), x.dtype == torch.bfloat16
