"""Rates from timed loops. Shared machines jump by a factor of two within seconds, so every loop is sampled briefly and
often, all loops in turn, and a rate is the quantiles of its samples, never one long run.

A loop is seen for some milliseconds only, and when the machine slows down, all that runs on it does: no rate is said to
vary less than all of them together do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pintpot.machine.spec import Rate
from pintpot.meter.clock import Spread, quantile, spread

Progress = Callable[[float, str], None]
"""Called with the share done, 0..1, and what is being measured."""


@dataclass(frozen=True, slots=True)
class Loop:
    """One thing to time: `run(rounds)` does the work so often and gives (units of work done, seconds)."""

    what: str
    threads: int
    size: int
    run: Callable[[int], tuple[float, float]]


def measure(
    loops: Sequence[Loop],
    budget_s: float,
    *,
    sample_s: float = 0.004,
    least: int = 3,
    most: int = 12,
    progress: Progress | None = None,
    middle: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Rate, ...]:
    """The rate of every loop over `least` to `most` samples, taken in turn for about `budget_s` seconds.

    Its spread is that of its own samples, or of all loops' samples beside their medians, whichever is wider.
    `middle` is the quantile taken for the middle of each, and its spread lies about that.
    A first short run of each loop warms it up, chooses how many rounds make a sample of `sample_s`, and is dropped.
    """
    start = clock()
    rounds = [_rounds(loop, sample_s) for loop in loops]
    samples: list[list[float]] = [[] for _ in loops]
    for turn in range(most):
        for index, loop in enumerate(loops):
            share = (clock() - start) / budget_s
            if turn >= least and share >= 1:
                break
            if progress is not None:
                progress(min(1.0, max(share, turn / most)), loop.what)
            units, seconds = loop.run(rounds[index])
            samples[index].append(units / max(seconds, 1e-9))
    shared = _shared(samples, middle)
    return tuple(_rate(loop, found, shared, middle) for loop, found in zip(loops, samples, strict=True))


def _rounds(loop: Loop, sample_s: float) -> int:
    _, seconds = loop.run(1)
    return max(1, min(100_000, round(sample_s / max(seconds, 1e-8))))


def _shared(samples: Sequence[Sequence[float]], middle: float) -> Spread:
    """The spread of all samples, each divided by the middle of its loop."""
    return spread([one / quantile(found, middle) for found in samples for one in found] or [1.0])


def _rate(loop: Loop, samples: list[float], shared: Spread, middle: float) -> Rate:
    own, mid = spread(samples), quantile(samples, middle)
    low, high = min(own.low, mid * shared.low), max(own.high, mid * shared.high)
    return Rate(loop.what, low, mid, high, loop.threads, loop.size)
