"""Boxes of a piece of memory, seen through its views: what part of it an op touches, and the same part laid out alone.

All views of a piece of memory are products of the same digits, as a number is of tens and ones: each axis of a view is
a run of them. A box is a range of each axis, or of each digit; held alone in memory of its own, its digits lie as
before, and only closer together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod

from pintpot.program.ops.aten import View

Range = tuple[int, int]
Box = tuple[Range, ...]


def whole(sizes: Sequence[int]) -> Box:
    return tuple((0, size) for size in sizes)


def sizes_of(box: Box) -> tuple[int, ...]:
    return tuple(stop - first for first, stop in box)


def hull(one: Box, other: Box | None) -> Box:
    """The smallest box around both."""
    if other is None:
        return one
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def narrowed(view: View, box: Box) -> View:
    """A box of a view, in the same memory."""
    dtype, _, strides, offset = view
    first = sum(start * stride for (start, _), stride in zip(box, strides, strict=True))
    return dtype, sizes_of(box), strides, offset + first


@dataclass(frozen=True, slots=True)
class Digits:
    """What the axes of all views of a piece of memory are made of: stride and radix of each, the innermost first."""

    dtype: str
    strides: tuple[int, ...]
    radices: tuple[int, ...]

    @classmethod
    def of(cls, views: Iterable[View]) -> Digits | None:
        """None where the views have no digits in common, or do not look at all of the memory."""
        marks, kinds, totals = {1}, set(), set()
        for dtype, sizes, strides, offset in views:
            kinds.add(dtype)
            totals.add(prod(sizes))
            for size, stride in zip(sizes, strides, strict=True):
                if size > 1:
                    marks |= {stride, size * stride}
            if offset:
                return None
        at = sorted(marks)
        if len(kinds) != 1 or totals != {at[-1]} or at[0] != 1 or any(b % a for a, b in pairwise(at)):
            return None
        return cls(kinds.pop(), tuple(at[:-1]), tuple(b // a for a, b in pairwise(at)))

    @property
    def whole(self) -> Box:
        return whole(self.radices)

    def _axis(self, size: int, stride: int) -> tuple[int, ...]:
        return _axis(self.strides, size, stride)

    def box(self, view: View, box: Box) -> Box | None:
        """The digits' ranges of a box of a view; None where no box of digits is that."""
        found = list(self.whole)
        _, sizes, strides, _ = view
        for size, stride, (first, stop) in zip(sizes, strides, box, strict=True):
            if size == 1:
                continue
            at = self._axis(size, stride)
            if len(at) == 1:
                found[at[0]] = (first, stop)
                continue
            for i in at:
                inner = size = size // self.radices[i]
                if first // inner == (stop - 1) // inner:
                    found[i] = (first // inner, first // inner + 1)
                    first, stop = first % inner, (stop - 1) % inner + 1
                elif first % inner == 0 and stop % inner == 0:
                    found[i], first, stop = (first // inner, stop // inner), 0, inner
                else:
                    return None
        return tuple(found)

    def seen(self, view: View, digits: Box) -> Box | None:
        """The box of a view that has these ranges of the digits; None where no box of it has."""
        found: list[Range] = []
        _, sizes, strides, _ = view
        for size, stride in zip(sizes, strides, strict=True):
            first, stop = 0, 1
            for i in self._axis(size, stride) if size > 1 else ():
                (low, high), radix = digits[i], self.radices[i]
                if stop - first > 1 and (low, high) != (0, radix):
                    return None
                first, stop = (first * radix + low, first * radix + high) if stop - first == 1 else (
                    first * radix, stop * radix
                )  # fmt: skip
            found.append((first, stop))
        return tuple(found)

    def alone(self, view: View, box: Box, held: Box) -> View | None:
        """A box of a view, in memory that holds nothing but the ranges `held`; None where it has no strides there."""
        wanted = self.box(view, box)
        if wanted is None or any(a < c or b > d for (a, b), (c, d) in zip(wanted, held, strict=True)):
            return None
        lengths = sizes_of(held)
        places = [prod(lengths[:i]) for i in range(len(lengths))]
        strides, offset = [], sum((a - c) * at for (a, _), (c, _), at in zip(wanted, held, places, strict=True))
        _, sizes, given, _ = view
        for size, stride in zip(sizes, given, strict=True):
            step = due = 1
            for i in reversed(self._axis(size, stride) if size > 1 else ()):
                low, high = wanted[i]
                if due == 1:
                    step = places[i]
                elif high - low > 1 and places[i] != step * due:
                    return None
                due *= high - low
            strides.append(step)
        return self.dtype, sizes_of(box), tuple(strides), offset


@lru_cache(maxsize=1 << 14)
def _axis(strides: tuple[int, ...], size: int, stride: int) -> tuple[int, ...]:
    """The digits of an axis, the outermost first."""
    return tuple([i for i, one in enumerate(strides) if stride <= one < stride * size][::-1])
