"""What a service has done so far: counts, and how long people waited, in the buckets that a scraper reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pintpot.errors import PintpotError

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RECENT_S = 5.0


@dataclass
class Histogram:
    """How many took how long: `buckets[i]` at most BUCKETS_S[i] seconds, the last one longer."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds

    @property
    def count(self) -> int:
        return sum(self.buckets)


class Rate:
    """Tokens a second of the last few seconds."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, now: float, number: int) -> None:
        self._recent.append((now, number))
        self._sum += number
        self._forget(now)

    def per_second(self, now: float) -> float:
        self._forget(now)
        return self._sum / RECENT_S

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - RECENT_S:
            self._sum -= self._recent.popleft()[1]


@dataclass
class Counts:
    """Requests by how they ended, tokens, and times: to the first token, and from one to the next."""

    ended: Counter[str] = field(default_factory=Counter)
    num_accepted: int = 0
    num_refused: int = 0
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    first_token: Histogram = field(default_factory=Histogram)
    between_tokens: Histogram = field(default_factory=Histogram)
    rate: Rate = field(default_factory=Rate)

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """What is asked inside and ends in an error was refused."""
        try:
            yield
        except PintpotError:
            self.num_refused += 1
            raise
