"""Linear layers with norms before and after (RMSNorm: Zhang and Sennrich 2019), gates (Shazeer 2020) and rotations.

GELU is Hendrycks and Gimpel's (2016, arXiv:1606.08415), in the form with tanh.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.hadamard import rotate_columns
from pintpot.kernels.reference import Call, Memory
from pintpot.program.gather import Gather
from pintpot.program.ops.linear import FLOAT_FORMATS, GATES, PLANES, gathered
from pintpot.program.spec import Op, Program

GROUP = 32
GELU_SLOPE = 2 * sqrt(2 / pi)


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    out = normed(op, multiplied(op, program, memory), memory)
    residual = op.read("residual")
    memory[str(op.write("out"))] = out if residual is None else out + memory[residual]


def multiplied(op: Op, program: Program, memory: Memory) -> NDArray[Any]:
    """Products and biases [T, sum N], before any norm of them."""
    x = prologue(op, memory)
    planes = PLANES[op.get("activation", "float32")]
    to_brain = planes == PLANES["bfloat16"]
    biases = op.read_all("bias") or (None,) * len(op.read_all("weight"))
    parts = []
    for name, bias in zip(op.read_all("weight"), biases, strict=True):
        rounded = planes > 0 and program.by_name[name].format not in FLOAT_FORMATS
        exact = memory.get(apart(name))
        met = round_rows(x, planes, exact) if rounded else x
        y = project(met, brain_weight(memory[name], exact) if rounded and to_brain else memory[name])
        parts.append(y if bias is None else y + memory[bias])
    return np.concatenate(parts, axis=-1)


def normed(op: Op, out: NDArray[Any], memory: Memory) -> NDArray[Any]:
    """What was multiplied [T, N], after its norm where there is one."""
    name = op.read("post_norm")
    return out if name is None else rms_norm(out, memory[name], op.get("eps"))


def apart(name: str) -> str:
    """Where a memory says which columns of a weight [C] are kept apart, and so meet rows that nobody rounded."""
    return f"{name}+"


def project(x: NDArray[Any], weight: Any) -> NDArray[Any]:
    """x [T, K] times a weight's transpose: an array [N, K], or (first row, rows) pairs of one that is never whole."""
    if isinstance(weight, np.ndarray):
        return np.asarray(x @ weight.T)
    return np.concatenate([np.asarray(x @ rows.T) for _, rows in weight], axis=-1)


def prologue(op: Op, memory: Memory) -> NDArray[Any]:
    """The rows that meet the weights, in the memory's own precision."""
    return prologue_of(op, memory[str(op.read("x"))], memory)


def prologue_of(op: Op, x: NDArray[Any], memory: Memory) -> NDArray[Any]:
    """The same of rows that are given."""
    rows, size = _prologue(op, x, memory), op.get("rotate", 0)
    return rotate_columns(rows, size) if size else rows


def _prologue(op: Op, x: NDArray[Any], memory: Memory) -> NDArray[Any]:
    kind, gather = op.get("prologue", "none"), gathered(op)
    if gather is not None:
        return unfolded(np.asarray(x), gather)
    if kind == "rmsnorm":
        return rms_norm(x, memory[str(op.read("norm"))], op.get("eps"))
    if kind in GATES:
        gate, up = np.split(x, 2, axis=-1)
        with np.errstate(over="ignore"):
            return np.asarray(gate / (1 + np.exp(-opened(gate, kind))) * up)
    return np.asarray(x)


def unfolded(x: NDArray[Any], gather: Gather) -> NDArray[Any]:
    """The rows of a convolution [rows, columns] out of flat memory."""
    places = []
    for axis in gather.axes:
        at = np.arange(axis.places)[:, None] * axis.step - axis.before + np.arange(axis.kernel) * axis.dilation
        places.append((at, axis))
    index = np.arange(gather.batch).reshape(-1, *[1] * 7) * gather.batch_stride
    index = index + np.arange(gather.channels) * gather.channel_stride
    inside = np.ones((1,) * 8, bool)
    for number, (at, axis) in enumerate(places):
        shape = [1] * 8
        shape[1 + number], shape[4 + number] = at.shape
        inside = inside & ((at >= 0) & (at < axis.size)).reshape(shape)
        index = index + (np.clip(at, 0, axis.size - 1) * axis.stride).reshape(shape)
    return np.where(inside, x.reshape(-1)[index], 0).reshape(gather.rows, gather.columns)


def opened(gate: NDArray[Any], kind: str) -> NDArray[Any]:
    """What the logistic function s is taken of: silu(g) = g s(g), gelu(g) = g s(2 sqrt(2 / pi) (g + 0.044715 g^3))."""
    if kind == "swiglu":
        return gate
    return np.asarray(gate * (GELU_SLOPE + GELU_SLOPE * 0.044715 * gate * gate))


def rms_norm(x: NDArray[Any], weight: NDArray[Any], eps: float) -> NDArray[Any]:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    return np.asarray(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight)


def brain_weight(weight: Any, exact: NDArray[Any] | None) -> Any:
    """A weight [N, K], or the runs of rows of one that is never whole, in bfloat16 but for the columns `exact`."""
    if not isinstance(weight, np.ndarray):
        return ((first, brain_weight(rows, exact)) for first, rows in weight)
    rounded = brain(weight)
    if exact is not None:
        rounded[:, exact] = weight[:, exact]
    return rounded


def brain(x: NDArray[Any]) -> NDArray[Any]:
    """Values rounded to bfloat16, ties away from 0."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32) + np.uint32(0x8000)
    return np.asarray((bits & np.uint32(0xFFFF0000)).view(np.float32), x.dtype)


def round_rows(x: NDArray[Any], planes: int | NDArray[Any], exact: NDArray[Any] | None = None) -> NDArray[Any]:
    """Rows as 1 or 2 int8 planes in groups of 32 would hold them (docs/layout.md): [T, K] -> [T, K].

    `planes` of all rows, or of each [T] (`PLANES`): a row of none stays as it is, and so do the columns `exact`.
    """
    num_rows, width = x.shape
    padded = np.zeros((num_rows, -(-width // GROUP) * GROUP), x.dtype)
    padded[:, :width] = x
    if exact is not None:
        padded[:, exact] = 0
    groups = padded.reshape(num_rows, padded.shape[1] // GROUP, GROUP)
    scale = np.abs(groups).max(axis=-1, keepdims=True) / 127
    units = np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0)
    whole = np.clip(np.rint(units), -127, 127)
    each = np.broadcast_to(planes, num_rows)
    two, floating = each == 2, each == PLANES["bfloat16"]
    whole[two] += np.clip(np.rint((units[two] - whole[two]) * 254), -127, 127) / 254
    rounded = (whole * scale).reshape(padded.shape)[:, :width]
    rounded[floating] = brain(x[floating])
    if exact is not None:
        rounded[:, exact] = x[:, exact]
    return np.where((each > 0)[:, None], rounded, x)
