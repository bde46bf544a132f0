"""Which part of its inputs an op needs for a part of its output, and the op that computes only that.

Along the axes of space a convolution or a pool needs a window around what it gives (its receptive field); what works
value by value needs the same place; a product or a softmax needs whole rows. An op that is not known here cannot be
divided, and whoever divides a chain of ops stops before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pintpot.program.boxes import Box, Range, whole
from pintpot.program.calls import BY_VALUE
from pintpot.program.leaf_tiles import is_plain, window
from pintpot.program.ops.aten import View
from pintpot.program.spec import Op

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an op: the box it needs of each tensor that is read, the box it makes, and its arguments.

    It may make more than was asked for; what is beyond has no meaning and is not read. The arguments of a leaf are the
    axes of its gather; its weights are read whole, and have no box here.
    """

    needs: tuple[Box, ...]
    makes: Box
    args: list[Any]


def is_divisible(op: Op) -> bool:
    """Whether an op can be computed in parts."""
    return is_plain(op) or (op.kind == "aten" and _rule(op) is not None)


def piece(op: Op, box: Box) -> Piece | None:
    """The part of an op that makes this box of its first output; None where it cannot be had alone."""
    rule = _leaf if op.kind == "linear" else _rule(op)
    return None if rule is None else rule(op, box)


def out_view(op: Op) -> View:
    """The first output of a call; what a call changes in place is what it reads first."""
    views: Sequence[View] = op.get("outs") or op.get("views")
    return views[0]


def _rule(op: Op) -> Callable[[Op, Box], Piece | None] | None:
    name = _name(op)
    if name in BY_VALUE or name.removesuffix("_") in BY_VALUE:
        return _by_value
    return _RULES.get(name)


def _name(op: Op) -> str:
    return str(op.get("call")).partition(".")[0]


def _sizes(op: Op) -> list[Sizes]:
    return [sizes for _, sizes, _, _ in op.get("views")]


def _full(sizes: Sizes, box: Box, axes: Sequence[int]) -> bool:
    return all(box[axis] == (0, sizes[axis]) for axis in axes)


def _by_value(op: Op, box: Box) -> Piece | None:
    sizes = out_view(op)[1]
    needs = [_broadcast(one, sizes, box) for one in _sizes(op)]
    return Piece(tuple(needs), box, json.loads(op.get("args")))


def _broadcast(one: Sizes, sizes: Sizes, box: Box) -> Box:
    """The box of an operand whose axes of length 1 serve all of the output's."""
    beyond = len(sizes) - len(one)
    return tuple((0, 1) if size == 1 else box[beyond + axis] for axis, size in enumerate(one))


def _leaf(op: Op, box: Box) -> Piece | None:
    found = window(op, box)
    return None if found is None else Piece((found[0],), box, found[1])


def _softmax(op: Op, box: Box) -> Piece | None:
    args, sizes = json.loads(op.get("args")), out_view(op)[1]
    return Piece((box,), box, args) if _full(sizes, box, [args[1]]) else None


def _product(op: Op, box: Box) -> Piece | None:
    """bmm, and baddbmm, which has an addend before the factors."""
    sizes = _sizes(op)
    one, other = sizes[-2:]
    batch, rows, columns = box
    addends = [_broadcast(each, out_view(op)[1], box) for each in sizes[:-2]]
    factors = (batch, rows, (0, one[2])), (batch, (0, other[1]), columns)
    return Piece((*addends, *factors), box, json.loads(op.get("args")))


def _normed(op: Op, box: Box) -> Piece | None:
    """A batch norm by statistics that are known."""
    args, sizes = json.loads(op.get("args")), _sizes(op)
    of_batch = _name(op) == "native_batch_norm" and args[5] is not False
    if of_batch or not _full(sizes[0], box, [1]):
        return None
    return Piece((box, *(whole(each) for each in sizes[1:])), box, args)


def _joined(op: Op, box: Box) -> Piece | None:
    args, sizes = json.loads(op.get("args")), _sizes(op)
    at = (args[1] if len(args) > 1 else 0) % len(box)
    if not _full(out_view(op)[1], box, [at]) or any(len(each) != len(box) for each in sizes):
        return None
    return Piece(tuple((*box[:at], (0, each[at]), *box[at + 1 :]) for each in sizes), box, args)


def _padded(op: Op, box: Box) -> Piece | None:
    args, (sizes,) = json.loads(op.get("args")), _sizes(op)
    before, after = args[1][::2], args[1][1::2]
    needs, pads = list(box), [0] * len(args[1])
    for i, (low, high) in enumerate(zip(before, after, strict=True)):
        axis = len(sizes) - 1 - i
        first, stop = box[axis][0] - low, box[axis][1] - low
        inside = max(0, first), min(sizes[axis], stop)
        if low < 0 or high < 0 or inside[0] >= inside[1]:
            return None
        needs[axis], pads[2 * i], pads[2 * i + 1] = inside, inside[0] - first, stop - inside[1]
    return Piece((tuple(needs),), box, [args[0], pads, *args[2:]])


@dataclass(frozen=True, slots=True)
class _Window:
    """What one output along one axis sees: `kernel` inputs `dilation` apart, the next output `step` further on."""

    kernel: int
    step: int
    padding: int
    dilation: int

    def part(self, wanted: Range, num_in: int, num_out: int) -> tuple[Range, Range, int]:
        """For outputs `wanted`: the inputs, the outputs that they make, and the zeros at either end.

        There are as many zeros at both ends or at none, so where the true ones are at one end, there are false ones at
        the other: more inputs are taken until no output that is wanted sees them.
        """
        first, stop = wanted
        if wanted == (0, num_out):
            return (0, num_in), wanted, self.padding
        reach = self.dilation * (self.kernel - 1) + 1
        low, high = first * self.step - self.padding, (stop - 1) * self.step - self.padding + reach
        if low >= 0 and high <= num_in:
            return (low, high), wanted, 0
        begin = max(0, low // self.step)
        end = min(num_in, high)
        made = (end - begin * self.step + 2 * self.padding - reach) // self.step + 1
        return (begin * self.step, end), (begin, begin + made), self.padding


def _in_space(op: Op, box: Box, windows: Sequence[_Window], channels: Range) -> tuple[Box, Box, list[int]]:
    """The box that is needed of [batch, channels, *space], the box that is made, and the zeros along each axis."""
    given, made = _sizes(op)[0], out_view(op)[1]
    parts = [w.part(box[2 + i], given[2 + i], made[2 + i]) for i, w in enumerate(windows)]
    needs = (box[0], channels, *(part[0] for part in parts))
    return needs, (box[0], box[1], *(part[1] for part in parts)), [part[2] for part in parts]


def _convolution(op: Op, box: Box) -> Piece | None:
    args, sizes = json.loads(op.get("args")), _sizes(op)
    kernel, transposed = sizes[1][2:], args[6]
    if transposed or len(sizes[0]) != len(sizes[1]) or not _full(out_view(op)[1], box, [1]):
        return None
    knobs = [_each(args[i], len(kernel)) for i in (3, 4, 5)]
    windows = [_Window(*each) for each in zip(kernel, *knobs, strict=True)]
    needs, makes, padding = _in_space(op, box, windows, (0, sizes[0][1]))
    return Piece((needs, *(whole(each) for each in sizes[1:])), makes, [*args[:4], padding, *args[5:]])


def _pool(op: Op, box: Box) -> Piece | None:
    """Largest or mean values of windows; the arguments behind the padding are dilation, for the former, and ceiling."""
    args, (sizes,) = json.loads(op.get("args")), _sizes(op)
    num, largest = len(sizes) - 2, "max" in _name(op)
    rest = args[4:]
    dilation, ceiling = (rest[0] if largest and rest else 1), any(one is True for one in rest[: 2 if largest else 1])
    if num < 1 or ceiling:
        return None
    kernel = _each(args[1], num)
    step = _each(args[2], num) if len(args) > 2 and args[2] else kernel
    padding = _each(args[3] if len(args) > 3 else 0, num)
    windows = [_Window(*each) for each in zip(kernel, step, padding, _each(dilation, num), strict=True)]
    needs, makes, zeros = _in_space(op, box, windows, box[1])
    return Piece((needs,), makes, [args[0], kernel, step, zeros, *rest])


def _each(knob: Any, num: int) -> list[int]:
    """A knob for each axis; one may stand for all."""
    values = list(knob) if isinstance(knob, list) else [knob]
    return values * num if len(values) == 1 else values


_RULES: Final[dict[str, Callable[[Op, Box], Piece | None]]] = {
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "bmm": _product,
    "baddbmm": _product,
    "native_batch_norm": _normed,
    "_native_batch_norm_legit_no_training": _normed,
    "cat": _joined,
    "constant_pad_nd": _padded,
    "convolution": _convolution,
    "max_pool2d_with_indices": _pool,
    "avg_pool2d": _pool,
}
