"""Packed leaves in chains that are computed box by box: how they look at their memory, and the leaf of one box.

A linear op says of its memory only how many rows it has. Those of a convolution are the places of pictures (`gather`);
of another op they are what its neighbours see in the same memory, with the channels side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod

from pintpot.program.boxes import Box, sizes_of
from pintpot.program.gather import Axis, Gather, gather_of
from pintpot.program.ops.aten import View
from pintpot.program.spec import Op, Program

_ROLES = {"x", "weight", "bias"}


def is_plain(op: Op) -> bool:
    """Whether an op is a leaf with rows of its own, and nothing else within it."""
    inside = op.get("prologue", "none") != "none" or op.get("rotate", 0)
    return op.kind == "linear" and bool(op.get("rows")) and not inside and {role for role, _ in op.reads} <= _ROLES


def shown(op: Op, program: Program, seen: Iterable[View]) -> Op | None:
    """A leaf with `views` and `outs` of its x and out, as calls have them; None where nobody knows them.

    `seen` are looks of others at its out.
    """
    (_, x), (_, out), rows = op.reads[0], op.writes[0], int(op.get("rows"))
    num_in, num_out = (prod(program.shape(name)) for name in (x, out))
    gather = gather_of(op.get("gather"))
    if gather is not None:
        strides = (gather.batch_stride, gather.channel_stride, *(axis.stride for axis in gather.axes))
        given: View = ("float32", (gather.batch, gather.channels, *(axis.size for axis in gather.axes)), strides, 0)
        return _with(op, given, _channels_last(gather.batch, num_out // rows, [axis.places for axis in gather.axes]))
    width, columns = num_out // rows, num_in // rows
    for view in seen:
        _, sizes, strides, offset = view
        at = next((i for i, pair in enumerate(zip(sizes, strides, strict=True)) if pair == (width, 1)), None)
        if at is not None and offset == 0 and prod(sizes) == num_out and all(s % width == 0 or s == 1 for s in strides):
            turned = [1 if i == at else stride // width * columns for i, stride in enumerate(strides)]
            narrow = (*sizes[:at], columns, *sizes[at + 1 :])
            return _with(op, ("float32", narrow, tuple(turned), 0), view)
    return None


def _with(op: Op, given: View, made: View) -> Op:
    return replace(op, attributes=(*op.attributes, ("views", (given,)), ("outs", (made,))))


def _channels_last(batch: int, channels: int, axes: Iterable[int]) -> View:
    places = tuple(axes)
    inner = tuple(channels * prod(places[i + 1 :]) for i in range(len(places)))
    return "float32", (batch, channels, *places), (channels * prod(places), 1, *inner), 0


def window(op: Op, box: Box) -> tuple[Box, list[Axis]] | None:
    """Of a shown leaf: the box of x that a box of its out needs, and the axes of the gather that makes it."""
    gather, (given,), (made,) = gather_of(op.get("gather")), op.get("views"), op.get("outs")
    if gather is None:
        at = next(i for i, pair in enumerate(zip(made[1], made[2], strict=True)) if pair == (_width(op), 1))
        whole = box[at] == (0, made[1][at])
        return ((*box[:at], (0, given[1][at]), *box[at + 1 :]), []) if whole else None
    if box[1] != (0, made[1][1]):
        return None
    needs, axes = [box[0], (0, gather.channels)], list[Axis]()
    for axis, (first, stop) in zip(gather.axes, box[2:], strict=True):
        low = first * axis.step - axis.before
        high = (stop - 1) * axis.step - axis.before + axis.dilation * (axis.kernel - 1) + 1
        needs.append((max(0, low), min(axis.size, high)))
        axes.append(axis._replace(size=needs[-1][1] - needs[-1][0], places=stop - first, before=max(0, -low)))
    return (tuple(needs), axes) if all(low < high for low, high in needs) else None


def leaf(op: Op, x: tuple[str, View], out: str, axes: list[Axis], made: Box) -> Op:
    """The leaf of one box: it reads a view that begins where its memory does, and fills memory of its own."""
    rows = prod(sizes_of(made)) // _width(op)
    changed: dict[str, object] = {"rows": rows}
    if axes:
        _, sizes, strides, _ = x[1]
        first, second, third = (axis._replace(stride=stride) for axis, stride in zip(axes, strides[2:], strict=True))
        changed["gather"] = Gather(sizes[0], strides[0], sizes[1], strides[1], (first, second, third))
    kept = tuple((key, changed.get(key, value)) for key, value in op.attributes if key not in ("views", "outs"))
    reads = ((op.reads[0][0], x[0]), *op.reads[1:])
    return replace(op, reads=reads, writes=((op.writes[0][0], out),), attributes=kept)


def _width(op: Op) -> int:
    """Columns of a shown leaf's out."""
    return int(prod(op.get("outs")[0][1])) // int(op.get("rows"))


def packed(view: View) -> View:
    """The box of a view in memory of its own, its axes in the order in which they lay."""
    dtype, sizes, strides, _ = view
    at = sorted(range(len(sizes)), key=lambda i: (strides[i], -i))
    steps = {i: prod(sizes[j] for j in at[:place]) for place, i in enumerate(at)}
    return dtype, sizes, tuple(steps[i] for i in range(len(sizes))), 0


def reads_as_it_lies(op: Op, view: View, num_values: int) -> bool:
    """Whether a leaf can read this view of memory of so many values: its rows are all that is there, in order."""
    if view[3]:
        return False
    return op.get("gather") is not None or (view == packed(view) and prod(view[1]) == num_values)
