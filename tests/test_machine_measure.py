"""Sampling timed loops: in turn, within the time given, and as quantiles."""

from __future__ import annotations

import pytest

from pintpot.machine.measure import Loop, measure
from pintpot.machine.spec import Rate


class Clock:
    """A clock that only loops move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def loop(self, what: str, speeds: list[float], units: float = 10.0) -> Loop:
        left = list(speeds)

        def run(rounds: int) -> tuple[float, float]:
            speed = left.pop(0) if len(left) > 1 else left[0]
            self.now += rounds * units / speed
            self.log.append(what)
            return rounds * units, rounds * units / speed

        return Loop(what, 2, 7, run)


def _spread(rate: Rate) -> tuple[float, float, float]:
    return rate.low, rate.mid, rate.high


def test_a_rate_is_the_quantiles_of_its_samples() -> None:
    clock = Clock()
    speeds = [1.0, *(float(100 + index) for index in range(11))]
    rates = measure([clock.loop("read", speeds)], 1e9, sample_s=10.0, most=11, clock=clock)
    assert [(rate.what, rate.threads, rate.size) for rate in rates] == [("read", 2, 7)]
    assert _spread(rates[0]) == pytest.approx((100.25, 105.0, 109.75))


def test_no_rate_varies_less_than_all_of_them_together() -> None:
    clock = Clock()
    steady, moving = [100.0] * 12, [1.0, *(float(100 + index) for index in range(11))]
    rates = measure([clock.loop("a", steady), clock.loop("b", moving)], 1e9, sample_s=10.0, most=11, clock=clock)
    # Of 22 samples beside their medians, from either end, 0.525 of the way from the first to the second.
    low, high = (100.525 / 105, 109.475 / 105)
    assert _spread(rates[0]) == pytest.approx((100.0 * low, 100.0, 100.0 * high))
    assert _spread(rates[1]) == pytest.approx((100.25, 105.0, 109.75))


def test_loops_take_turns_after_warming_up() -> None:
    clock = Clock()
    measure([clock.loop("a", [5.0]), clock.loop("b", [5.0])], 1e9, most=3, clock=clock)
    assert clock.log == ["a", "b"] + ["a", "b"] * 3


def test_time_ends_it_but_not_before_the_least() -> None:
    clock = Clock()
    loops = [clock.loop("a", [1.0]), clock.loop("b", [1.0])]
    rates = measure(loops, 5.0, sample_s=10.0, least=2, most=99, clock=clock)
    assert clock.log.count("a") == 3
    assert {rate.mid for rate in rates} == {1.0}


def test_a_sample_is_as_long_as_asked() -> None:
    clock = Clock()
    measure([clock.loop("a", [1e6])], 1e9, sample_s=0.5, most=1, clock=clock)
    assert clock.now == pytest.approx(10 / 1e6 + 0.5)


def test_progress_grows_to_one() -> None:
    clock, seen = Clock(), list[float]()
    loops = [clock.loop("a", [100.0])]
    measure(loops, 100.0, sample_s=10.0, most=99, clock=clock, progress=lambda share, what: seen.append(share))
    assert seen == sorted(seen)
    assert 0.0 <= seen[0] <= seen[-1] <= 1.0
