"""What a plan costs: bytes by holder, seconds by stage, each low..high, and what binds."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Span:
    """A number that is not known exactly: `low` <= `mid` <= `high`."""

    low: float
    mid: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def __mul__(self, factor: float) -> Span:
        return Span(self.low * factor, self.mid * factor, self.high * factor)

    def widened(self, factor: float) -> Span:
        """Wider by a factor on either side."""
        return Span(self.low / factor, self.mid, self.high * factor)

    @staticmethod
    def exactly(value: float) -> Span:
        return Span(value, value, value)

    @staticmethod
    def largest(*spans: Span) -> Span:
        return Span(max(s.low for s in spans), max(s.mid for s in spans), max(s.high for s in spans))

    @staticmethod
    def smallest(*spans: Span) -> Span:
        return Span(min(s.low for s in spans), min(s.mid for s in spans), min(s.high for s in spans))

    def inverse(self, amount: float = 1.0) -> Span:
        """Seconds for an amount become a rate."""
        return Span(*(amount / value if value else inf for value in (self.high, self.mid, self.low)))


ZERO = Span(0.0, 0.0, 0.0)
LEARNING = ("forward", "backward", "loss", "forward again", "loss again", "update", "backward, some frozen", "teacher")
"""Stages of a step in which a model learns."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds memory, and how many bytes of it."""

    name: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage: seconds and traffic of all its replays for the workload, and the resource that binds.

    `bound_s` gives the mid seconds that each resource alone would take; `written_bytes` of `disk_bytes` are written.
    """

    name: str
    tokens: int
    replays: int
    seconds: Span
    ram_bytes: float
    disk_bytes: float
    multiply_adds: float
    binds: str
    bound_s: tuple[tuple[str, float], ...]
    written_bytes: float = 0.0

    @property
    def tokens_per_s(self) -> Span:
        return self.seconds.inverse(self.tokens)

    @property
    def each_s(self) -> Span:
        """Seconds of one replay."""
        return self.seconds * (1 / self.replays)

    @property
    def disk_bytes_per_replay(self) -> float:
        return self.disk_bytes / self.replays

    def reads_per_replay(self, ahead_bytes: int) -> tuple[float, float]:
        """Bytes from disk, low..high: before the stage and at its end up to `ahead_bytes` may have been read ahead."""
        ahead = ahead_bytes / self.replays
        return self.disk_bytes_per_replay - ahead, self.disk_bytes_per_replay + ahead


@dataclass(frozen=True, slots=True)
class Gain:
    """Words a second with guessed ones over those without, `low` to `high`; `measured` where guesses were seen before.

    `token_share` is what one more token takes of a step.
    """

    low: float
    high: float
    token_share: float
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """Everything a plan promises but quality: memory by holder, stages, opening and packing.

    The stages are those of the whole workload, of a language model the prompts of all sequences in shared chunks, then
    their answers side by side. `pack_s` is the whole making of the pack, `calibrate_s` of it; `page_s` what it takes to
    move one page of a cache that sequences share to the disk, or back; `guessing` what guessed words would bring.
    """

    holders: tuple[Holder, ...]
    stages: tuple[StageCost, ...]
    open_s: Span
    pack_s: Span
    pack_bytes: int
    calibrate_s: Span = ZERO
    page_s: Span = ZERO
    guessing: Gain | None = None

    @property
    def memory_low(self) -> int:
        return sum(holder.low for holder in self.holders)

    @property
    def memory_high(self) -> int:
        return sum(holder.high for holder in self.holders)

    def stage(self, name: str) -> StageCost:
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def first_token_s(self) -> Span:
        """From the arrival of all prompts or inputs to the first of every answer, the pack being open."""
        return (
            sum((stage.seconds for stage in self.stages[:-1]), ZERO) if len(self.stages) > 1 else self.stages[0].seconds
        )

    @property
    def per_token_s(self) -> Span:
        """From one word, or one answer, to the next, of every sequence."""
        return self.stages[-1].each_s

    @property
    def step_s(self) -> Span:
        """One step of learning, the mean: forward, backward and update, whichever kind of them it has."""
        learning = [stage for stage in self.stages if stage.name in LEARNING]
        return sum((stage.seconds for stage in learning), ZERO) * (1 / max(1, self.stages[0].replays))

    @property
    def step_disk_bytes(self) -> tuple[float, float]:
        """Bytes that a step of learning reads from the disk, and those that it writes."""
        learning = [stage for stage in self.stages if stage.name in LEARNING]
        written = sum(stage.written_bytes / stage.replays for stage in learning)
        return sum(stage.disk_bytes / stage.replays for stage in learning) - written, written

    @property
    def total_s(self) -> Span:
        """The workload: its prompts in, its answers out."""
        return sum((stage.seconds for stage in self.stages), ZERO)
