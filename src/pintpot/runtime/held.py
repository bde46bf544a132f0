"""Resident memory by holder, as it grows while a pack is opened."""

from __future__ import annotations

from collections.abc import Callable

from pintpot.meter.memory import resident_bytes
from pintpot.planner.names import PROCESS, TORCH
from pintpot.runtime.pricing import Here


class Held:
    """`by_holder` gives each holder's bytes: the growth between the marks before it. Shared libraries come first.

    `beside(look)` leaves out what is being loaded meanwhile, whose bytes are known and are `put` down.
    """

    def __init__(self, beside: Callable[[Callable[[], int]], int]) -> None:
        self._beside = beside
        self._last = beside(resident_bytes)
        self.by_holder: dict[str, int] = {PROCESS: self._last}

    def mark(self, holder: str) -> None:
        """What has grown since the last mark belongs to `holder`."""
        now = self._beside(resident_bytes)
        self.put(holder, now - self._last)
        self._last = now

    def put(self, holder: str, num_bytes: int) -> None:
        """So many bytes, which no mark sees, belong to `holder`."""
        self.by_holder[holder] = self.by_holder.get(holder, 0) + num_bytes


def split_process(held: Held, here: Here) -> None:
    """What the process held before it opened anything: as much as any run of ours, and the rest is torch."""
    plain = here.machine().process_bytes
    held.by_holder[TORCH] = max(0, held.by_holder[PROCESS] - plain)
    held.by_holder[PROCESS] = min(plain, held.by_holder[PROCESS])
