"""What makes one thing of this machine scarce: a neighbour at a core or at the memory, a share of a disk or of a core.

    python benchmarks/slowing.py spin | read [CPU]

is the neighbour itself: it says "ready", and then computes in registers, or reads memory, until it is killed.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from pintpot.errors import PintpotError, UnsupportedPlatform, need
from pintpot.meter.cgroup import groups

SPIN, READ = "spin", "read"
HOG_BYTES = 512_000_000
_ENTER = 'echo $$ > "$0" && exec "$@"'
_COUNT = itertools.count()


class Neighbour:
    """Another process that takes a core (`SPIN`) or reads memory as fast as it can (`READ`). A context manager.

    It begins at rest; `at_work` is a block during which it works. `cpu` is where it must run, None anywhere.
    """

    def __init__(self, what: str, cpu: int | None = None) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), what, *([] if cpu is None else [str(cpu)])]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Neighbour:
        need(self._process.stdout is not None and self._process.stdout.readline() != "", "it began", PintpotError)
        self._process.send_signal(signal.SIGSTOP)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGCONT)
        time.sleep(0.02)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)


class Share:
    """A control group (version 1) with less than everything of a disk or of the processors. A context manager.

    Raises UnsupportedPlatform where none can be made.
    """

    def __init__(self, controller: str) -> None:
        found = groups(controller)
        if found is None or found.version != 1:
            raise UnsupportedPlatform(f"no control group (version 1) of {controller} here")
        self._folder = found.own / f"pintpot-share-{os.getpid()}-{next(_COUNT)}"
        self._started: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Share:
        try:
            self._folder.mkdir()
        except OSError as error:
            raise UnsupportedPlatform(f"{self._folder.parent} takes no new group ({error.strerror})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
        self._folder.rmdir()

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a command inside."""
        enter = ["/bin/sh", "-c", _ENTER, str(self._folder / "cgroup.procs")]
        self._started.append(subprocess.Popen([*enter, *command], **options))
        return self._started[-1]

    def cores(self, number: float) -> None:
        """Of a group of "cpu": so much time of the processors."""
        (self._folder / "cpu.cfs_period_us").write_text("100000")
        (self._folder / "cpu.cfs_quota_us").write_text(str(int(number * 100_000)))

    @contextmanager
    def reading(self, path: Path, bytes_per_s: float) -> Iterator[None]:
        """Of a group of "blkio": so many bytes a second from the disk of a file, during a block."""
        disk = os.stat(path).st_dev
        file = self._folder / "blkio.throttle.read_bps_device"
        place = f"{os.major(disk)}:{os.minor(disk)}"
        try:
            file.write_text(f"{place} {int(bytes_per_s)}")
        except OSError as error:
            raise UnsupportedPlatform(f"the disk of {path} takes no limit ({error.strerror})") from error
        try:
            yield
        finally:
            file.write_text(f"{place} 0")


def _spin() -> None:
    while True:
        for _ in range(1_000_000):
            pass


def _read() -> None:
    from pintpot._native import Arena, Pool, measure

    pool, arena = Pool(1), Arena(HOG_BYTES, True)
    ctypes.memset(arena.address, 0x3C, arena.nbytes)
    print("ready", flush=True)
    while True:
        measure.read(pool, arena, arena.nbytes, 1)


def main() -> None:
    """Work until killed."""
    what, *cpus = sys.argv[1:]
    if cpus:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus})
    if what == READ:
        _read()
    print("ready", flush=True)
    _spin()


if __name__ == "__main__":
    main()
