"""Requests that wait for a place: whoever has them is asked for the next one that may begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Protocol

from pintpot.runtime.request import Request

Fits = Callable[[Request], bool]


class Waiting(Protocol):
    """Where a scheduler gets its requests from."""

    def take(self, fits: Fits) -> tuple[int, Request] | None:
        """The number and the request to begin now; None while there is none, or the next one does not fit yet."""


class InOrder:
    """A list of requests, one after the other, numbered from 0. Each is asked for only when it may begin."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests: Iterator[Request] = iter(requests)
        self._numbers = count()
        self._next: Request | None = None

    def take(self, fits: Fits) -> tuple[int, Request] | None:
        self._next = self._next or next(self._requests, None)
        if self._next is None or not fits(self._next):
            return None
        request, self._next = self._next, None
        return next(self._numbers), request
