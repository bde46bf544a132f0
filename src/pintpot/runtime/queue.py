"""Who is next: the client that has had least, and of its requests the one with the nearest deadline.

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
        self._running: dict[int, str] = {}
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

    def take(self, fits: Callable[[Asked], bool]) -> tuple[int, Asked] | None:
        """The next one, if it fits now."""
        if not self._waiting:
            return None
        entry = min(
            self._waiting.values(), key=lambda one: (self._served.get(one.client, 0.0), one.deadline, one.number)
        )
        if not fits(entry.request):
            return None
        del self._waiting[entry.number]
        self._running[entry.number] = entry.client
        self.charge(entry.number, entry.request.size)
        return entry.number, entry.request

    def charge(self, number: int, amount: float) -> None:
        """Whoever asked for a request that runs was served so much, in the unit of its size."""
        client = self._running.get(number)
        if client is not None:
            self._served[client] = self._served.get(client, 0.0) + amount

    def remove(self, number: int) -> None:
        """A request is over, or no longer wanted."""
        self._waiting.pop(number, None)
        self._running.pop(number, None)

    def _busy(self) -> set[str]:
        return {entry.client for entry in self._waiting.values()} | set(self._running.values())
