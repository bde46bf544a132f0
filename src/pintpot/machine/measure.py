"""Rates from timed loops. Shared machines jump by a factor of two within seconds, so every loop is sampled briefly and
often, all loops in turn, and a rate is the quantiles of its samples, never one long run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pintpot.machine.spec import Rate
from pintpot.meter.clock import spread

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
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Rate, ...]:
    """The rate of every loop, its spread over `least` to `most` samples, taken in turn for about `budget_s` seconds.

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
    return tuple(_rate(loop, found) for loop, found in zip(loops, samples, strict=True))


def _rounds(loop: Loop, sample_s: float) -> int:
    _, seconds = loop.run(1)
    return max(1, min(100_000, round(sample_s / max(seconds, 1e-8))))


def _rate(loop: Loop, samples: list[float]) -> Rate:
    found = spread(samples)
    return Rate(loop.what, found.low, found.mid, found.high, loop.threads, loop.size)
