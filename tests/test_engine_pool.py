"""The pool of threads: every chunk once, pools side by side, and no time taken while idle."""

from __future__ import annotations

import os
import subprocess
import sys
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


NO_ROOM = """
import resource
from pintpot._native import Pool
try:
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 40_000_000, resource.RLIM_INFINITY))
    Pool(200)
except OSError as error:
    print(error)
"""


def test_a_thread_that_cannot_be_started_is_an_error_and_no_abort() -> None:
    # Stacks of 8 MB: four fit, and the fifth does not. The ones before it are sent home.
    done = subprocess.run([sys.executable, "-c", NO_ROOM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "cannot start a thread" in done.stdout


LENT = """
import os, torch
from pintpot._native import Pool
from pintpot.kernels.torch.threads import fork_address
torch.set_num_threads(3)
torch.ones(1 << 20).exp_()
before = len(os.listdir("/proc/self/task"))
pool = Pool(3, fork=fork_address())
good = all(pool.check_phases(300, chunks) for chunks in (1, 2, 64))
torch.ones(1 << 20).exp_()
print(fork_address() > 0, good, len(os.listdir("/proc/self/task")) - before)
"""


def test_a_pool_on_the_threads_of_pytorch_starts_none() -> None:
    """Every chunk of every phase once, also where PyTorch's threads come late, and they compute for PyTorch again."""
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-c", LENT], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "True", "0"]
    with pytest.raises(ValueError, match="not pinned"):
        Pool(1, [0], fork=1)
