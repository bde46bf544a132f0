"""A hard memory cap for a subprocess: a fresh control group, its peak, and whether the kernel had to kill.

with Cap(300_000_000) as cap:
    done = cap.run(["pintpot", "run", ...])
print(cap.report.peak_bytes, cap.report.killed)
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pintpot.errors import UnsupportedPlatform, UsageError, need
from pintpot.meter.cgroup import PROC, Groups, groups, read_int, read_table, read_text

_PREFIX = "pintpot-cap-"
_ENTER = 'echo $$ > "$0" && exec "$@"'
_COUNT = itertools.count()


@dataclass(frozen=True, slots=True)
class CapReport:
    """What the group saw: `peak_bytes` of everything charged (file cache too), None where the kernel keeps no peak."""

    limit_bytes: int
    peak_bytes: int | None
    killed: bool


def why_no_cap(proc: Path = PROC) -> str | None:
    """None when a cap can be set here, else the reason in words."""
    if groups("memory", proc) is None:
        return "this system has no memory control groups"
    try:
        with Cap(1 << 30, proc):
            return None
    except UnsupportedPlatform as error:
        return str(error)


class Cap:
    """A fresh memory group with a hard limit; on leaving, what still runs in it is killed and the group removed.

    Raises UnsupportedPlatform where no group can be made.
    """

    def __init__(self, limit_bytes: int, proc: Path = PROC) -> None:
        need(limit_bytes >= 1 << 20, f"a cap of {limit_bytes} bytes holds no process; use 1 MiB or more", UsageError)
        self.limit_bytes = limit_bytes
        self.report = CapReport(limit_bytes, None, False)
        self._proc = proc
        self._version = 0
        self._folder: Path | None = None
        self._started: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Cap:
        found = groups("memory", self._proc)
        if found is None:
            raise UnsupportedPlatform("no memory cap: this system has no memory control groups")
        parent = found.own if found.version == 1 else _parent_v2(found)
        _sweep(parent, self._proc)
        names = (parent / f"{_PREFIX}{os.getpid()}-{number}" for number in _COUNT)
        folder = next(name for name in names if not name.exists())  # a dead process may have had our number
        try:
            folder.mkdir()
        except OSError as error:
            raise UnsupportedPlatform(f"no memory cap: {parent} takes no new group ({error.strerror})") from error
        self._folder, self._version = folder, found.version
        try:
            self._limit(folder)
        except OSError as error:
            self._remove()
            raise UnsupportedPlatform(f"no memory cap: {folder} takes no limit ({error.strerror})") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start `command` inside the group; `options` go to subprocess.Popen.

        A shell enters the group and becomes the program, so no page of it is charged elsewhere.
        """
        if self._folder is None:
            raise UsageError("a Cap starts programs inside its with block")
        enter = ["/bin/sh", "-c", _ENTER, str(self._folder / "cgroup.procs")]
        process: subprocess.Popen[Any] = subprocess.Popen([*enter, *command], **options)
        self._started.append(process)
        return process

    def run(self, command: Sequence[str], timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run to the end with text captured. Past `timeout_s` it is killed and subprocess.TimeoutExpired raised."""
        pipe = subprocess.PIPE
        with self.popen(command, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        self.report = self._read()
        return subprocess.CompletedProcess(list(command), process.returncode, out, err)

    def _limit(self, folder: Path) -> None:
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        if self._version == 2:
            names = ("memory.max", "memory.swap.max")
        (folder / names[0]).write_text(str(self.limit_bytes))
        if (folder / names[1]).exists():  # what would be swapped out must count, or the cap would be soft
            (folder / names[1]).write_text(str(self.limit_bytes) if self._version == 1 else "0")

    def _read(self) -> CapReport:
        folder = self._folder
        if folder is None:
            return self.report
        peak, events = ("memory.max_usage_in_bytes", "memory.oom_control")
        if self._version == 2:
            peak, events = ("memory.peak", "memory.events")
        killed = read_table(folder / events).get("oom_kill", 0) > 0
        return CapReport(self.limit_bytes, read_int(folder / peak), killed)

    def _remove(self) -> None:
        folder = self._folder
        if folder is None:
            return
        self.report = self._read()
        self._folder = None
        for process in self._started:  # one that has not entered the group yet is not in its list below
            if process.poll() is None:
                process.kill()
        deadline = time.monotonic() + 5
        while not _removed(folder) and time.monotonic() < deadline:
            for pid in read_text(folder / "cgroup.procs").split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.01)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def _parent_v2(found: Groups) -> Path:
    """The nearest enclosing group that hands the memory controller to its children.

    A group with processes of its own may not (the rule of no inner processes), so it is rarely our own.
    """
    for level in found.levels:
        if "memory" in read_text(level / "cgroup.subtree_control").split():
            return level
    outermost = found.levels[-1]
    try:
        (outermost / "cgroup.subtree_control").write_text("+memory")
    except OSError as error:
        why = f"no memory cap: no group above this process hands memory to children ({error.strerror})"
        raise UnsupportedPlatform(why) from error
    return outermost


def _sweep(parent: Path, proc: Path) -> None:
    """Remove empty groups that a killed process of ours left behind."""
    for folder in parent.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if not (proc / owner).exists() and not read_text(folder / "cgroup.procs").split():
            _removed(folder)
