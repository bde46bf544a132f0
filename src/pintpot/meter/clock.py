"""Time: how long a block took, how much of the machine others used meanwhile, and the middle of many readings."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pintpot.errors import UsageError, need
from pintpot.meter.cgroup import PROC, read_text

_SHORTEST_S = 0.05
"""The kernel counts CPU time in ticks of 10 ms: over a shorter block a share would be noise."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The bad end, the middle and the good end of many readings: quantiles 0.025, 0.5 and 0.975: 95% lie between."""

    low: float
    mid: float
    high: float


class Watch:
    """Times a block: `seconds`, `own_cpu_s` of this process, and `foreign_share`.

    `foreign_share` is the part of all CPU time that other processes took, or the hypervisor for other machines; None
    for a block under 50 ms or where `/proc/stat` does not tell.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self.seconds = 0.0
        self.own_cpu_s = 0.0
        self.foreign_share: float | None = None
        self._proc = proc
        self._start = (0.0, 0.0, 0.0, 0.0)

    def __enter__(self) -> Watch:
        self._start = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds, self.own_cpu_s, busy_s, all_s = (
            after - before for after, before in zip(self._now(), self._start, strict=True)
        )
        if self.seconds >= _SHORTEST_S and all_s > 0:
            self.foreign_share = min(1.0, max(0.0, busy_s - self.own_cpu_s) / all_s)

    def _now(self) -> tuple[float, float, float, float]:
        busy_s, all_s = _machine_cpu_s(self._proc)
        return time.perf_counter(), time.process_time(), busy_s, all_s


def _machine_cpu_s(proc: Path) -> tuple[float, float]:
    """CPU seconds since boot that were busy (time stolen by the hypervisor too), and all of them."""
    words = read_text(proc / "stat").partition("\n")[0].split()
    ticks = [int(word) for word in words[1:9]]  # the columns after steal count guests a second time
    if len(ticks) < 5 or words[0] != "cpu":
        return 0.0, 0.0
    per_second = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - ticks[3] - ticks[4]) / per_second, sum(ticks) / per_second


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the readings lie, between neighbours in proportion."""
    need(len(values) > 0, "no readings to take a quantile of", UsageError)
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def median(values: Sequence[float]) -> float:
    """The middle reading, or the mean of the two in the middle."""
    return quantile(values, 0.5)


def spread(values: Sequence[float]) -> Spread:
    """Quantiles 0.025, 0.5 and 0.975 of the readings."""
    return Spread(quantile(values, 0.025), median(values), quantile(values, 0.975))
