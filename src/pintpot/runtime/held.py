"""Resident memory by holder, as it grows while a pack is opened."""

from __future__ import annotations

from pintpot.meter.memory import resident_bytes
from pintpot.planner.holders import PROCESS


class Held:
    """`by_holder` gives each holder's bytes: the growth between the marks before it. Shared libraries come first."""

    def __init__(self) -> None:
        self._last = resident_bytes()
        self.by_holder: dict[str, int] = {PROCESS: self._last}

    def mark(self, holder: str) -> None:
        """What has grown since the last mark belongs to `holder`."""
        now = resident_bytes()
        self.by_holder[holder] = self.by_holder.get(holder, 0) + now - self._last
        self._last = now
