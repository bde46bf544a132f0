"""PROOF: scales of plots: values to places, and ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pintpot.errors import need


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `low` to `high` lie at places from `first` to `last`, evenly or by their logarithm."""

    low: float
    high: float
    first: float = 0.0
    last: float = 100.0
    log: bool = False

    @classmethod
    def upwards(cls, values: Sequence[float]) -> Scale:
        """From zero to a little more than the largest, in percent."""
        return cls(0.0, max(values) * 1.04 or 1.0)

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high = self._bent(self.low), self._bent(self.high)
        return self.first + (self._bent(value) - low) / (high - low) * (self.last - self.first)

    def ticks(self, num: int) -> list[float]:
        """About `num` round values inside the scale; at least two."""
        found = log_ticks(self.low, self.high, num) if self.log else linear_ticks(self.low, self.high, num)
        return found if len(found) >= 2 else linear_ticks(self.low, self.high, num)

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.log else value


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: what it shows, how its values are written, evenly or by logarithm, and whether it starts at zero."""

    label: str
    form: Callable[[float], str]
    log: bool = False
    zero: bool = False

    def scale(self, values: Sequence[float], first: float, last: float) -> Scale:
        """A scale that holds all values, at the places `first` to `last`. Raises BadInput for what it cannot show."""
        need(all(math.isfinite(value) for value in values), f"{self.label}: a value that is not finite has no place")
        need(not self.log or min(values) > 0, f"{self.label}: {min(values)} has no place on a log axis")
        low, high = min(values), max(values)
        if self.log:
            room = (high / low) ** 0.05 if high > low else 10**0.5
            return Scale(low / room, high * room, first, last, log=True)
        low = min(low, 0.0) if self.zero else low
        room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        return Scale(low if self.zero and low == 0 else low - room, high + room, first, last)


def linear_ticks(low: float, high: float, num: int) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten inside [low, high], about `num` of them, two at least."""
    need(high > low, f"a scale from {low} to {high} has no length")
    raw = (high - low) / max(num, 2)
    power = 10.0 ** math.floor(math.log10(raw))
    steps = [factor * power for factor in (10.0, 5.0, 2.5, 2.0, 1.0, 0.5)]
    fine = next(step for step in reversed(steps) if step >= raw * 0.999)
    found = _multiples(fine, low, high)
    while len(found) < 2:
        fine /= 2
        found = _multiples(fine, low, high)
    return found


def log_ticks(low: float, high: float, num: int) -> list[float]:
    """Powers of ten inside [low, high], with 2 and 5 times them where there is room, thinned to about `num`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 5), (1, 3), (1,)):
        every = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        found = [tick for tick in every if low * 0.9999 <= tick <= high * 1.0001]
        if len(found) <= num + 1:
            return found
    return found[:: math.ceil(len(found) / num)]


def _multiples(step: float, low: float, high: float) -> list[float]:
    slack = (high - low) * 1e-9
    first, last = math.ceil((low - slack) / step), math.floor((high + slack) / step)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
