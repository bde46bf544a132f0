"""Who is next: the client that has had least, and of its requests the one with the nearest deadline.

Tokens that each client was served are counted, and one that comes back has no credit from the time it was away: the
virtual token counter (Sheng et al. 2024, arXiv:2401.00588). Whoever is next and does not fit yet is waited for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pintpot.runtime.request import Request
from pintpot.runtime.waiting import Fits

MOST_CLIENTS = 4096
"""Clients whose count is kept while they ask for nothing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that waits. `deadline` is on the clock that the queue is asked with; infinity is none."""

    number: int
    request: Request
    client: str
    deadline: float = math.inf


class Queue:
    """Requests that wait, and what each client was served. One thread has it."""

    def __init__(self) -> None:
        self._waiting: dict[int, Entry] = {}
        self._running: dict[int, str] = {}
        self._served: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry) -> None:
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

    def take(self, fits: Fits) -> tuple[int, Request] | None:
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
        self.charge(entry.number, len(entry.request.tokens))
        return entry.number, entry.request

    def charge(self, number: int, num_tokens: int) -> None:
        """Whoever asked for a request that runs was served so many tokens."""
        client = self._running.get(number)
        if client is not None:
            self._served[client] = self._served.get(client, 0.0) + num_tokens

    def remove(self, number: int) -> None:
        """A request is over, or no longer wanted."""
        self._waiting.pop(number, None)
        self._running.pop(number, None)

    def _busy(self) -> set[str]:
        return {entry.client for entry in self._waiting.values()} | set(self._running.values())
