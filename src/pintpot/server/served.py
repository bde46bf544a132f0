"""What a server has open, whatever it is: who answers, and what it says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pintpot.errors import PintpotError
from pintpot.planner.plan import Plan
from pintpot.runtime.counts import BUCKETS_S, Counts, Histogram

Sample = tuple[str, float]


@dataclass(frozen=True, slots=True)
class Family:
    """Numbers for a scraper under one name."""

    name: str
    kind: str
    said: str
    samples: Iterable[Sample]


class Opened(Protocol):
    """An open pack."""

    @property
    def plan(self) -> Plan: ...
    @property
    def held(self) -> Mapping[str, int]:
        """Bytes by holder."""

    @property
    def notes(self) -> tuple[str, ...]: ...


class Driven(Protocol):
    """A thread that computes for many."""

    counts: Counts
    error: PintpotError | None

    def running_and_waiting(self) -> tuple[int, int]:
        """How many requests."""

    def wait_idle(self, seconds: float) -> bool:
        """Wait until every answer has ended; False when that takes longer."""

    def close(self) -> None:
        """End all answers and the thread."""


class Served(Protocol):
    """An open model and who drives it."""

    @property
    def session(self) -> Opened: ...
    @property
    def service(self) -> Driven: ...
    def card(self) -> dict[str, Any]:
        """What a list of models says of it, besides its name."""

    def told(self) -> str:
        """What the terminal says of it."""

    def gauges(self) -> dict[str, Any]:
        """What it is doing, for the page; besides what all have."""

    def families(self, now: Mapping[str, Any]) -> Iterable[Family]:
        """The same for a scraper."""


def labelled(label: str, values: Mapping[str, float]) -> list[Sample]:
    """One sample for each value, told apart by a label."""
    return [(f'{{{label}="{name}"}}', value) for name, value in values.items()]


def buckets(found: Histogram) -> list[Sample]:
    """A histogram."""
    total, samples = 0, list[Sample]()
    for bound, number in zip((*BUCKETS_S, float("inf")), found.buckets, strict=True):
        total += number
        samples.append((f'_bucket{{le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"}}', total))
    return [*samples, ("_sum", found.total_s), ("_count", found.count)]
