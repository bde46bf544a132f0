"""How far something is, and when it will be done. What is over in half a second shows nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

from pintpot.units import format_seconds

_QUIET_S = 0.5
_REDRAW_S = 0.1
LINE_S, OFTEN_S = 10.0, 3.0
_FIRST_LINE_S = 2.0
_CELLS = 32
_WIPE = "\r\x1b[2K"
_LEAST_SHARE = 0.02


def nothing(done: float, what: str) -> None:
    """Progress that nobody asked for."""


class Bar:
    """One line of a terminal, drawn again as things go on, with the time that is left; wiped when closed.

    Drawn by hand: it runs in the process whose memory was promised, where a table library would weigh megabytes.
    """

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._opened = clock()
        self._drawn = 0.0
        self._left = TimeLeft(clock)

    def __call__(self, done: float, what: str) -> None:
        now = self._clock()
        left = self._left(done, what)
        if now - self._opened < _QUIET_S or now - self._drawn < _REDRAW_S:
            return
        self._drawn = now
        full = round(min(max(done, 0.0), 1.0) * _CELLS)
        line = f"{what} {'━' * full}{'╌' * (_CELLS - full)} {done:4.0%}{left}"
        self._out.write(f"{_WIPE}{line[: shutil.get_terminal_size().columns - 1]}")
        self._out.flush()

    def close(self) -> None:
        if self._drawn:
            self._out.write(_WIPE)
            self._out.flush()


class Lines:
    """A line after two seconds and then every so often, for logs."""

    def __init__(
        self, say: Callable[[str], None], every_s: float = LINE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._every_s = every_s
        self._clock = clock
        self._next = clock() + _FIRST_LINE_S
        self._left = TimeLeft(clock)

    def __call__(self, done: float, what: str) -> None:
        now = self._clock()
        left = self._left(done, what)
        if now >= self._next:
            self._next = now + self._every_s
            self._say(f"{what}: {done:.0%}{left}")


class TimeLeft:
    """The time that is left of each thing that is done, in words; nothing while too little is known.

    What is told as "thing: part of it" is one thing.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._what = ""
        self._began = (0.0, 0.0)

    def __call__(self, done: float, what: str) -> str:
        now = self._clock()
        thing = what.partition(":")[0]
        if thing != self._what:
            self._what, self._began = thing, (now, done)
        began, first = self._began
        gone, share = now - began, done - first
        return f", {format_seconds(gone * (1 - done) / share)} left" if share >= _LEAST_SHARE and done < 1 else ""
