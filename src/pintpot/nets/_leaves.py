"""Recorded leaves as ops: by our own kernels where their weight is packed, by PyTorch's where it is left to it.

A convolution's matrix [N, K] has its columns in the order (kernel's places, channels), as rows are gathered; left in
float32 or bf16 it is the weight of a convolution whose channels lie side by side. In bf16 the rows are rounded before
the product and widened behind it, each into memory of its own, and the bias is added in float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from pintpot.contract.form import LEFT_BYTES, Form
from pintpot.errors import UsageError, need
from pintpot.program.gather import Gather, gather_of
from pintpot.program.ops.aten import View, end_bytes
from pintpot.program.spec import Op

LEAVES = ("linear", "embed")
Argument = tuple[str, View]
"""A buffer, and how it is looked at."""


Room = Callable[[int], str]
"""A new buffer of so many words, of which nobody else knows."""


def leaf_ops(op: Mapping[str, Any], form: Form, storages: Mapping[str, str], room: Room) -> tuple[Op, ...]:
    """The ops of a recorded leaf; `storages` names the buffers of its `x` and `out`."""
    weight = form.weights.by_name[op["weight"]]
    x, out = storages["x"], storages["out"]
    if not weight.is_matrix:
        kept = 4 // LEFT_BYTES[weight.format] * weight.shape[0]
        whole = 0 <= kept - prod(op["shape"]) < 2
        need(whole, f"{weight.name} has {kept} values, which are no {op['shape']!r:.40}", UsageError)
        if weight.format == "bf16":
            return _narrowed(op, x, out, room)
        return (_looked_up(op, x, out) if op["kind"] == "embed" else _multiplied(op, x, out, op["bias"]),)
    if op["kind"] == "embed":
        return (Op("embed", (("ids", x), ("weight", weight.name)), (("out", out),), (("rows", op["rows"]),)),)
    bias = () if op["bias"] is None else (("bias", op["bias"]),)
    gather = gather_of(op.get("gather"))
    knobs = [("prologue", "none"), ("activation", form.activation.prefill), ("rows", op["rows"])]
    if gather is not None and not gather.is_plain:
        knobs.append(("gather", gather))
    return (Op("linear", (("x", x), ("weight", weight.name), *bias), (("out", out),), tuple(knobs)),)


def _narrowed(op: Mapping[str, Any], x: str, out: str, room: Room) -> tuple[Op, ...]:
    """A product in bf16 between two copies: into bf16, and back."""
    need(op["kind"] == "linear", f"a table of words in bf16: {op['weight']}", UsageError)
    product = _multiplied(op, x, out, None)
    (given, weight), result = product.get("views"), product.get("outs")[0]
    narrow = [room(-(-end_bytes(view) // 8)) for view in (given, result)]
    views = tuple(("bfloat16", *view[1:]) for view in (given, weight, result))
    knobs = dict(product.attributes) | {"views": views[:2], "outs": views[2:]}
    reads = (("tensor", narrow[0]), product.reads[1])
    ops = (
        _call("_to_copy.default", _places(1), [(x, given)], (narrow[0], views[0]), 0.0, dtype="bfloat16"),
        Op("aten", reads, (("out", narrow[1]),), tuple(knobs.items())),
        _call("_to_copy.default", _places(1), [(narrow[1], views[2])], (out, result), 0.0, dtype="float32"),
    )
    if op["bias"] is None:
        return ops
    beside = (1, op["shape"][0], *(1 for _ in result[1][2:]))
    bias = (op["bias"], _dense(beside))
    return (*ops, _call("add_.Tensor", _places(2), [(out, result), bias], (out, None), 0.0))


def _looked_up(op: Mapping[str, Any], ids: str, out: str) -> Op:
    rows, (num_words, width) = op["rows"], op["shape"]
    reads = [(op["weight"], _dense((num_words, width))), (ids, _dense((rows,), "int32"))]
    return _call("embedding.default", _places(2), reads, (out, _dense((rows, width))), 0.0)


def _multiplied(op: Mapping[str, Any], x: str, out: str, added: str | None) -> Op:
    rows, (num_outputs, columns) = op["rows"], op["shape"]
    bias = [] if added is None else [(added, _dense((num_outputs,)))]
    gather, adds = gather_of(op.get("gather")), float(rows) * num_outputs * columns
    if gather is not None:
        return _convolved(op, gather, x, out, bias, adds)
    turned: View = ("float32", (columns, num_outputs), (1, columns), 0)
    reads = [*bias, (x, _dense((rows, columns))), (op["weight"], turned)]
    call = "addmm.default" if bias else "mm.default"
    return _call(call, _places(len(reads)), reads, (out, _dense((rows, num_outputs))), adds)


def _convolved(op: Mapping[str, Any], gather: Gather, x: str, out: str, bias: list[Argument], adds: float) -> Op:
    num_axes, num_outputs = op["axes"], op["shape"][0]
    need(type(num_axes) is int and 1 <= num_axes <= 3, f"a convolution of {num_axes!r:.20} axes", UsageError)
    axes = gather.axes[3 - num_axes :]
    strides = (gather.batch_stride, gather.channel_stride, *(axis.stride for axis in axes))
    picture: View = ("float32", (gather.batch, gather.channels, *(axis.size for axis in axes)), strides, 0)
    kernel = _channels_second(num_outputs, gather.channels, tuple(axis.kernel for axis in axes))
    given = _channels_second(gather.batch, num_outputs, tuple(axis.places for axis in axes))
    reads = [(x, picture), (op["weight"], kernel), *bias]
    steps, before, dilations = ([axis[at] for axis in axes] for at in (4, 5, 6))
    none = [0] * num_axes
    args = [{"t": 0}, {"t": 1}, {"t": 2} if bias else None, steps, before, dilations, False, none, 1]
    return _call("convolution.default", args, reads, (out, given), adds)


def _call(
    call: str, args: list[Any], reads: list[Argument], out: tuple[str, View | None], adds: float, **dtypes: str
) -> Op:
    """`out` has no view where the call changes what it reads there."""
    kwargs = {key: {key: value} for key, value in dtypes.items()}
    attributes = (
        ("call", call), ("args", json.dumps(args)), ("kwargs", json.dumps(kwargs)),
        ("views", tuple(view for _, view in reads)), ("outs", () if out[1] is None else (out[1],)),
        ("multiply_adds", adds),
    )  # fmt: skip
    return Op("aten", tuple(("tensor", name) for name, _ in reads), (("out", out[0]),), attributes)


def _places(count: int) -> list[Any]:
    return [{"t": at} for at in range(count)]


def _dense(sizes: tuple[int, ...], dtype: str = "float32") -> View:
    return dtype, sizes, tuple(prod(sizes[at + 1 :]) for at in range(len(sizes))), 0


def _channels_second(first: int, channels: int, axes: tuple[int, ...]) -> View:
    """[first, channels, *axes] whose channels lie side by side."""
    inner = tuple(channels * prod(axes[at + 1 :]) for at in range(len(axes)))
    return "float32", (first, channels, *axes), (channels * prod(axes), 1, *inner), 0
