"""What each place of a convolution's output looks at, as rows: the attribute `gather` of a linear op.

`x` holds `batch` pictures of `channels` over three axes of space (one of size 1 where there are fewer). There is a row
for each picture and place of the output, and in it the kernel's places one after the other, each with the channels
side by side; what lies beyond the picture is zero. It is plain numbers, so that ops can be compared and written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, cast

from pintpot.errors import UsageError, need

MOST = 1 << 31


class Axis(NamedTuple):
    """An axis of space: `size` places of x, `stride` values apart, and what the output and the kernel do along it."""

    size: int
    stride: int
    places: int
    kernel: int
    step: int
    before: int
    dilation: int


class Gather(NamedTuple):
    """Strides are in values; `axes` are three."""

    batch: int
    batch_stride: int
    channels: int
    channel_stride: int
    axes: tuple[Axis, Axis, Axis]

    @property
    def rows(self) -> int:
        return self.batch * prod(axis.places for axis in self.axes)

    @property
    def columns(self) -> int:
        return self.channels * prod(axis.kernel for axis in self.axes)

    @property
    def is_plain(self) -> bool:
        """Whether its rows are the values of x as they lie there."""
        dense, size = self.channel_stride == 1, self.channels
        for axis in reversed(self.axes):
            alone = (axis.kernel, axis.step, axis.before, axis.places) == (1, 1, 0, axis.size)
            dense, size = dense and alone and (axis.size == 1 or axis.stride == size), size * axis.size
        return dense and (self.batch == 1 or self.batch_stride == size)

    @property
    def values(self) -> int:
        """From the first value of x that may be looked at to behind the last."""
        last = (self.batch - 1) * self.batch_stride + (self.channels - 1) * self.channel_stride
        return last + sum((axis.size - 1) * axis.stride for axis in self.axes) + 1


def gather_of(found: object) -> Gather | None:
    """The attribute of an op. Raises UsageError for one that cannot be, be it a stranger's."""
    if found is None:
        return None
    try:
        batch, batch_stride, channels, channel_stride, axes = cast(Sequence[Any], found)
        first, second, third = (Axis(*axis) for axis in axes)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a gather of {found!r:.60}") from error
    made = Gather(batch, batch_stride, channels, channel_stride, (first, second, third))
    numbers = (*made[:4], *first, *second, *third)
    whole = all(type(one) is int and 0 <= one < MOST for one in numbers)
    least = (batch, channels, *(v for a in made.axes for v in (a.size, a.places, a.kernel, a.step, a.dilation)))
    need(whole and min(least) > 0, f"a gather of {found!r:.60}, which cannot be", UsageError)
    return made
