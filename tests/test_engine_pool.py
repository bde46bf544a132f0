"""The pool of threads: every chunk once, pools side by side, and no time taken while idle."""

from __future__ import annotations

import os
import threading
import time

import pytest

pytest.importorskip("pintpot._native")

from pintpot._native import Pool


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_chunk_of_every_phase_once(threads: int) -> None:
    pool = Pool(threads)
    assert pool.size == threads
    for chunks in (1, 3, 64):
        assert pool.check_phases(300, chunks)
    assert 0 < pool.barrier_seconds(200) < 0.1


def test_pools_side_by_side_and_pinned() -> None:
    pools = [Pool(2), Pool(3), Pool(1, sorted(os.sched_getaffinity(0))[:1])]
    found = []
    workers = [threading.Thread(target=lambda p=pool: found.append(p.check_phases(200, 9))) for pool in pools]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert found == [True] * 3
    for threads, cpus in ((0, []), (2, [0]), (5000, []), (1, [-1])):
        with pytest.raises(ValueError):
            Pool(threads, cpus)


def test_an_idle_pool_takes_no_time() -> None:
    pool = Pool(2)
    pool.check_phases(10, 10)
    before = os.times()
    time.sleep(0.3)
    after = os.times()
    assert after.user - before.user + after.system - before.system < 0.1
