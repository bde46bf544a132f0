"""The rows that meet weights: normed, or gated, or as they are; going back, they are made again from what made them.

Each is one autograd function: it keeps what it began with, which is there anyway, and of its inside nothing.
T tokens of D columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pintpot.kernels.torch import passes
from pintpot.kernels.torch.room import copied


@dataclass(frozen=True)
class Remake:
    """`make` gives the same rows once more of the same `tensors`."""

    make: Callable[..., torch.Tensor]
    tensors: tuple[torch.Tensor, ...]


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in float32 and given in `dtype`."""
    given: torch.Tensor = _Normed.apply(x, weight, eps, dtype)  # type: ignore[no-untyped-call]
    return given


def gated(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    """act(gate) * up [T, D] in their dtype: "swiglu" by SiLU, "geglu" by GELU's tangent form."""
    given: torch.Tensor = _Gated.apply(gate, up, kind)  # type: ignore[no-untyped-call]
    return given


def joined(made: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """What was made of states [T, D], in whatever dtype, added to them."""
    given: torch.Tensor = _Joined.apply(made, states)  # type: ignore[no-untyped-call]
    return given


def normed_again(x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> Remake:
    """What makes such rows without a way back."""
    return Remake(partial(passes.norm, eps=eps, dtype=dtype), (x.detach(), weight.detach()))


def gated_again(gate: torch.Tensor, up: torch.Tensor, kind: str) -> Remake:
    """The same of gated rows."""
    return Remake(partial(passes.gate, kind=kind), (gate.detach(), up.detach()))


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return passes.norm(x, weight, eps, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        return *passes.norm_back(x, weight, grads[0], ctx.eps, wanted), None, None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, made: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        ctx.dtype = made.dtype
        return passes.join(made, states)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return copied(grads[0], ctx.dtype), grads[0]


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kind = kind
        return passes.gate(gate, up, kind)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return *passes.gate_back(gate, up, grads[0], ctx.kind), None
