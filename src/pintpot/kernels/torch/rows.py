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

from pintpot.kernels.torch.room import copied, room


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
    return Remake(partial(_norm, eps=eps, dtype=dtype), (x.detach(), weight.detach()))


def gated_again(gate: torch.Tensor, up: torch.Tensor, kind: str) -> Remake:
    """The same of gated rows."""
    return Remake(partial(_gate, kind=kind), (gate.detach(), up.detach()))


def _roots(x: torch.Tensor, eps: float) -> torch.Tensor:
    return torch.rsqrt(x.square().mean(dim=-1, keepdim=True).add_(eps))


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    x = copied(x, torch.float32)
    return copied(torch.mul(x, _roots(x, eps), out=_like(x)).mul_(weight), dtype)


def _gate(gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
    return _acted(gate, kind).mul_(up)


def _acted(gate: torch.Tensor, kind: str) -> torch.Tensor:
    out = _like(gate)
    if kind == "swiglu":
        torch.ops.aten.silu.out(gate, out=out)
    else:
        torch.ops.aten.gelu.out(gate, approximate="tanh", out=out)
    return out


def _like(x: torch.Tensor) -> torch.Tensor:
    return room(tuple(x.shape), x.dtype)


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _norm(x, weight, eps, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        values = copied(x, torch.float32)
        root = _roots(values, ctx.eps)
        values, grad = torch.mul(values, root, out=_like(values)), copied(grads[0], torch.float32)
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = torch.mul(grad, values, out=_like(grad)).view(-1, len(weight)).sum(dim=0)
        if not ctx.needs_input_grad[0]:
            return None, by_weight, None, None
        grad = torch.mul(grad, weight, out=_like(grad))
        means = torch.mul(grad, values, out=_like(grad)).mean(dim=-1, keepdim=True)
        grad.sub_(values.mul_(means)).mul_(root)
        return copied(grad, x.dtype), by_weight, None, None


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, made: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        ctx.dtype = made.dtype
        return torch.add(states, made, out=_like(states))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return copied(grads[0], ctx.dtype), grads[0]


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, kind: str) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kind = kind
        return _gate(gate, up, kind)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gate, up), (grad,) = ctx.saved_tensors, grads
        by_act, by_gate = torch.mul(grad, up, out=_like(up)), _like(gate)
        if ctx.kind == "swiglu":
            torch.ops.aten.silu_backward.grad_input(by_act, gate, grad_input=by_gate)
        else:
            torch.ops.aten.gelu_backward.grad_input(by_act, gate, approximate="tanh", grad_input=by_gate)
        return by_gate, _acted(gate, ctx.kind).mul_(grad), None
