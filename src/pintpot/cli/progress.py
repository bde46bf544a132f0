"""How far something is, and when it will be done. What is over in half a second shows nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pintpot.units import format_seconds

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_QUIET_S = 0.5
_LINE_S = 3.0
_LEAST_SHARE = 0.02


def nothing(done: float, what: str) -> None:
    """Progress that nobody asked for."""


class Bar:
    """A bar on stderr with the time that is left, one for each thing that is done; gone when closed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = clock()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._what = ""

    def __call__(self, done: float, what: str) -> None:
        if self._clock() - self._begin < _QUIET_S:
            return
        if self._progress is None:
            self._progress = _rich_progress()
        if self._task is None or what != self._what:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._what = self._progress.add_task(what, total=1.0), what
        self._progress.update(self._task, completed=min(max(done, 0.0), 1.0))

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None
        self._begin = self._clock()


class Lines:
    """A line every few seconds, for logs."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._what = ""
        self._begin = self._told = clock()

    def __call__(self, done: float, what: str) -> None:
        now = self._clock()
        if what != self._what:
            self._what, self._begin = what, now
        if now - self._told < _LINE_S:
            return
        self._told = now
        left = (now - self._begin) * (1 - done) / done if done >= _LEAST_SHARE else None
        self._say(f"{what}: {done:.0%}" + ("" if left is None else f", about {format_seconds(left)} left"))


def _rich_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=32),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(compact=True),
    )
    progress = Progress(*columns, console=Console(file=sys.stderr), transient=True)
    progress.start()
    return progress
