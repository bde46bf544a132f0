"""Quantiles, and the share of the CPU that others took."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pintpot.errors import UsageError
from pintpot.meter.clock import Watch, median, quantile, spread


def test_quantiles_lie_between_neighbours() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    assert quantile([10, 20], 0.25) == 12.5
    assert quantile([7], 0.95) == 7


def test_the_spread_is_ordered_and_inside_what_was_seen() -> None:
    found = spread(range(101))
    assert (found.low, found.mid, found.high) == pytest.approx((2.5, 50, 97.5))


def test_no_readings_have_no_middle() -> None:
    with pytest.raises(UsageError, match="no readings"):
        median([])


def test_the_share_of_others_is_what_was_busy_without_us(tmp_path: Path) -> None:
    stat, hertz = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    stat.write_text("cpu  0 0 0 0 0 0 0 0 9 9\n")
    with Watch(tmp_path) as watch:
        time.sleep(0.06)
        stat.write_text(f"cpu  {20 * hertz} 0 {10 * hertz} {50 * hertz} {10 * hertz} 0 0 {10 * hertz} 99 99\n")
    assert watch.seconds >= 0.06
    assert watch.foreign_share == pytest.approx((40 - watch.own_cpu_s) / 100)


def test_a_short_block_has_no_share() -> None:
    with Watch() as watch:
        pass
    assert watch.foreign_share is None
    assert 0 <= watch.seconds < 0.05


def test_own_work_is_counted() -> None:
    with Watch() as watch:
        stop = time.process_time() + 0.02
        while time.process_time() < stop:
            pass
    assert watch.own_cpu_s >= 0.02
