"""Who is next, and who stops last: the client that has had least, and of its requests the nearest deadline's.

Tokens that each client was served are counted, and one that comes back has no credit from the time it was away: the
virtual token counter (Sheng et al. 2024, arXiv:2401.00588). Whoever is next and does not fit yet is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

MOST_CLIENTS = 4096
"""Clients whose count is kept while they ask for nothing."""


class Sized(Protocol):
    """What somebody asks for."""

    @property
    def size(self) -> float:
        """How much of the machine it takes to begin with, in a unit that all requests of one queue share."""


Asked = TypeVar("Asked", bound=Sized)


@dataclass(frozen=True, slots=True)
class Entry(Generic[Asked]):
    """A request that waits. `deadline` is on the clock that the queue is asked with; infinity is none."""

    number: int
    request: Asked
    client: str
    deadline: float = math.inf


class Queue(Generic[Asked]):
    """Requests that wait, and what each client was served. One thread has it."""

    def __init__(self) -> None:
        self._waiting: dict[int, Entry[Asked]] = {}
        self._running: dict[int, Entry[Asked]] = {}
        self._stopped: set[int] = set()
        self._served: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry[Asked]) -> None:
        """One more waits."""
        busy = self._busy()
        if entry.client not in busy:
            least = min((self._served.get(client, 0.0) for client in busy), default=0.0)
            self._served[entry.client] = max(self._served.pop(entry.client, 0.0), least)
        self._waiting[entry.number] = entry
        while len(self._served) > MOST_CLIENTS:
            idle = next((client for client in self._served if client not in busy and client != entry.client), None)
            if idle is None:
                break
            del self._served[idle]

    def take(self, fits: Callable[[int, Asked], bool]) -> tuple[int, Asked] | None:
        """The next one, if it fits now."""
        if not self._waiting:
            return None
        entry = min(self._waiting.values(), key=self._right)
        if not fits(entry.number, entry.request):
            return None
        del self._waiting[entry.number]
        self._running[entry.number] = entry
        if entry.number not in self._stopped:
            self.charge(entry.number, entry.request.size)
        return entry.number, entry.request

    def stop(self, number: int, request: Asked) -> None:
        """A request that runs waits again; nobody pays for its prompt twice."""
        self._waiting[number] = self._running.pop(number)
        self._stopped.add(number)

    def right(self, number: int) -> tuple[float, ...]:
        """By what a request that runs stands before others: the smaller it is, the sooner. Unknown ones come last."""
        entry = self._running.get(number)
        return (math.inf,) if entry is None else self._right(entry)

    def charge(self, number: int, amount: float) -> None:
        """Whoever asked for a request that runs was served so much, in the unit of its size."""
        entry = self._running.get(number)
        if entry is not None:
            self._served[entry.client] = self._served.get(entry.client, 0.0) + amount

    def remove(self, number: int) -> None:
        """A request is over, or no longer wanted."""
        self._waiting.pop(number, None)
        self._running.pop(number, None)
        self._stopped.discard(number)

    def _right(self, entry: Entry[Asked]) -> tuple[float, ...]:
        return self._served.get(entry.client, 0.0), entry.deadline, entry.number

    def _busy(self) -> set[str]:
        return {entry.client for some in (self._waiting, self._running) for entry in some.values()}
