"""What one rendering of a chat template may use, counted as it goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.runtime import Undefined

MAX_STEPS = 500_000
MAX_CHARS = 16_000_000
CHARS_PER_GIVEN = 256
MAX_SECONDS = 5.0


class Meter:
    """Counts steps, characters and seconds; raises TemplateRuntimeError when there are too many of one."""

    def __init__(self, num_chars_given: int) -> None:
        self._steps = 0
        self._chars = 0
        self._max_chars = MAX_CHARS + CHARS_PER_GIVEN * num_chars_given
        self._deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        """Count one loop pass, call, filter or operator."""
        self._steps += 1
        bounded(self._steps <= MAX_STEPS, f"it takes more than {MAX_STEPS} steps")
        bounded(time.monotonic() <= self._deadline, f"it runs for more than {MAX_SECONDS:g} seconds")

    def chars(self, count: int) -> None:
        """Count characters before they are made; an entry of a list counts as eight."""
        self._chars += count
        bounded(self._chars <= self._max_chars, f"it produces more than {self._max_chars} characters")

    def weigh(self, value: Any) -> Any:
        """Count the whole of a value, what it holds included, and hand it back."""
        if isinstance(value, str):
            self.chars(len(value) + 4)
            return value
        self.chars(8)
        for part in _parts(value):
            self.weigh(part)
        return value

    def printable(self, value: Any) -> Any:
        """`weigh` for a value about to become text; SecurityError for one that has no text of its own."""
        if not isinstance(value, (str, bool, int, float, list, tuple, Mapping, Undefined)) and value is not None:
            raise SecurityError(f"a {type(value).__name__} cannot be written out")
        self.chars(4 + len(value) if isinstance(value, str) else 8)
        for part in _parts(value):
            self.printable(part)
        return value


METER: ContextVar[Meter] = ContextVar("METER")
"""The meter of the rendering in progress; every thread has its own."""


def bounded(good: bool, why: str) -> None:
    """Raise TemplateRuntimeError(why) unless `good`."""
    if not good:
        raise TemplateRuntimeError(why)


def _parts(value: Any) -> list[Any] | tuple[Any, ...]:
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    return value if isinstance(value, (list, tuple)) else ()
