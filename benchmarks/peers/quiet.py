"""How much of the processor others took while a sample ran: more than 3%, and it does not count."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

MOST = 0.03
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD
_CLOCK = ctypes.CDLL(None, use_errno=True).clock_getcpuclockid


class Watch:
    """Around a sample: `foreign` is the share of all processor time that went to others than these processes.

    Time that the hypervisor gave to other machines counts as others'. The kernel's own threads are none: they read,
    write back and gather pages for whoever runs. The kernel counts in ticks of 10 ms, so a sample should last a second.
    """

    def __init__(self, processes: Sequence[int]) -> None:
        self.foreign = self.seconds = 0.0
        self._clocks = [clock_of(pid) for pid in processes]
        self._before = (0.0, 0.0, 0.0, 0.0)

    def __enter__(self) -> Watch:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.end()

    def begin(self) -> None:
        """The sample begins."""
        self._before = self._now()

    def end(self) -> None:
        """The sample is over; its processes must still be there."""
        own, busy, total, self.seconds = (now - then for now, then in zip(self._now(), self._before, strict=True))
        self.foreign = max(0.0, busy - own) / max(total, 1e-9)

    def _now(self) -> tuple[float, float, float, float]:
        own = time.process_time() + sum(time.clock_gettime(clock) for clock in self._clocks)
        words = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
        ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in words]
        return own + _kernel_s(), sum(ticks) - ticks[3] - ticks[4], sum(ticks), time.perf_counter()


def _kernel_s() -> float:
    """Seconds of the processor that the kernel's own threads took so far."""
    ticks = 0
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            # Behind the name, which may have spaces: state, parent, ..., flags, ..., ticks as user and as system.
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[6]) & _KERNEL_THREAD:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def clock_of(pid: int) -> int:
    """The clock that counts a process's seconds on the processor, all its threads together."""
    clock = ctypes.c_int32()
    code = _CLOCK(pid, ctypes.byref(clock))
    if code != 0:
        raise OSError(code, f"no clock for process {pid}")
    return clock.value
