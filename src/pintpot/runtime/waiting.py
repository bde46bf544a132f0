"""Requests that wait for a place: whoever has them is asked for the next one that may begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

from pintpot.runtime.request import Request

Fits = Callable[[int, Request], bool]
"""Whether the request of this number may begin, or go on, now."""


class Waiting(Protocol):
    """Where a scheduler gets its requests from."""

    def take(self, fits: Fits) -> tuple[int, Request] | None:
        """The number and the request to begin now; None while there is none, or the next one does not fit yet."""

    def stop(self, number: int, request: Request) -> None:
        """A request that was taken is stopped for others: it waits again, and `take` gives it once more."""

    def right(self, number: int) -> tuple[float, ...]:
        """How much right a request that was taken has to go on: the less it is, the more right."""


class InOrder:
    """A list of requests, one after the other, numbered from 0. Each is asked for only when it may begin."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests: Iterator[tuple[int, Request]] = enumerate(requests)
        self._waiting: dict[int, Request] = {}

    def take(self, fits: Fits) -> tuple[int, Request] | None:
        if not self._waiting:
            self._waiting.update(islice(self._requests, 1))
        if not self._waiting:
            return None
        number = min(self._waiting)
        if not fits(number, self._waiting[number]):
            return None
        return number, self._waiting.pop(number)

    def stop(self, number: int, request: Request) -> None:
        self._waiting[number] = request

    def right(self, number: int) -> tuple[float, ...]:
        return (number,)
