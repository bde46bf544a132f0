"""Gradients of what comes before and after a product, row by row: norms, gates and rotations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.hadamard import rotate_columns
from pintpot.kernels.reference import Memory
from pintpot.kernels.reference.linear import GELU_SLOPE, opened
from pintpot.program.ops.linear import GATES
from pintpot.program.spec import Op

Floats = NDArray[Any]


def before(op: Op, memory: Memory, grads: Floats) -> Floats:
    """Gradients of a linear op's x, from those of the rows that its prologue makes of it."""
    return before_rows(op, memory[str(op.read("x"))], memory, grads)


def before_rows(op: Op, x: Floats, memory: Memory, grads: Floats) -> Floats:
    """The same of rows that are given."""
    kind, size = op.get("prologue", "none"), op.get("rotate", 0)
    if size:
        grads = rotate_columns(grads, size)
    if kind == "rmsnorm":
        return rms_norm(x, memory[str(op.read("norm"))], op.get("eps"), grads)
    if kind in GATES:
        gate, up = np.split(x, 2, axis=-1)
        with np.errstate(over="ignore"):
            open_share = 1 / (1 + np.exp(-opened(gate, kind)))
        to_gate = grads * up * open_share * (1 + gate * (1 - open_share) * slope(gate, kind))
        return np.concatenate((to_gate, grads * gate * open_share), axis=-1)
    return grads


def slope(gate: Floats, kind: str) -> Floats | float:
    """The derivative of `kernels.reference.linear.opened`."""
    return 1.0 if kind == "swiglu" else np.asarray(GELU_SLOPE * (1 + 3 * 0.044715 * gate * gate))


def rms_norm(x: Floats, weight: Floats, eps: float, grads: Floats) -> Floats:
    """Gradients of x, from those of x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    inverse = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.asarray(eps, x.dtype))
    scaled = grads * weight
    along = np.mean(scaled * x, axis=-1, keepdims=True)
    return np.asarray(inverse * (scaled - x * (inverse * inverse * along)))
