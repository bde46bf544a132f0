"""What a proof says: promised beside measured for memory, speed and quality, and the share of the hardware's limit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal

from pintpot.meter.agreement import Agreement, Interval
from pintpot.meter.likeness import Likeness
from pintpot.meter.overlap import Agreed
from pintpot.units import format_amount, format_bytes, format_span

Unit = Literal["bytes", "seconds", "tokens/s", "answers/s", "steps/s", "pictures/s", "nats", "of cosine"]
OF_QUALITY = ("nats", "of cosine")
Verdict = Literal["held", "not held", "not decided", "not judged"]
VERSION = 2
TEXT_TOKENS = 256
MAX_TEXTS = 6
USUAL_TOKENS = TEXT_TOKENS * MAX_TEXTS
"""Texts that quality is judged by: their length, how many of them, and both."""


@dataclass(frozen=True, slots=True)
class Row:
    """One promise and what became of it. `measured` is the median of the runs, `low` and `high` their extremes.

    Of a degradation they are the mean and its 95% interval. `holds` is None where nothing was promised, nothing could
    be measured, or the interval reaches to both sides of what was promised; so many tokens as `needed` would then
    decide, where that can be told. `limit` is what the hardware alone reached in the same run.
    """

    what: str
    unit: Unit
    promised_low: float
    promised_high: float
    measured: float | None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    holds: bool | None = None
    needed: int | None = None

    @property
    def verdict(self) -> Verdict:
        """What became of the promise, in words."""
        if self.holds is None:
            return "not judged" if self.measured is None or self.unit not in OF_QUALITY else "not decided"
        return "held" if self.holds else "not held"

    @property
    def share_of_limit(self) -> float | None:
        return None if self.limit is None or self.measured is None else self.measured / self.limit


@dataclass(frozen=True, slots=True)
class HolderRow:
    """Memory of one holder: promised low..high and measured alone, in bytes; None where it was not."""

    name: str
    promised_low: int
    promised_high: int
    measured: int | None


@dataclass(frozen=True, slots=True)
class Peak:
    """The most that one of the processes of a proof ever held (VmHWM), against the budget."""

    process: str
    peak_bytes: int
    budget_bytes: int

    @property
    def holds(self) -> bool:
        return self.peak_bytes <= self.budget_bytes


@dataclass(frozen=True, slots=True)
class StepQuality:
    """What some steps change, mostly one, on the words of answers.

    `alone`: the unpacked model with nothing but them; None where they cannot be taken alone. `after`: they and all
    steps before them. `added`: nats a token that they added to what was there before them, word by word.
    """

    steps: tuple[str, ...]
    alone: Agreement | None
    after: Agreement
    added: Interval


@dataclass(frozen=True)
class Proof:
    """The receipt of one pack on one machine.

    `answers` is about words decoded one by one after a prompt, `prompts` about all words of texts read as prompts, both
    as the pack computes them. `answers_of_weights` and `prompts_of_weights` are about the same words where the pack's
    weights meet float32 arithmetic. `text_tokens` were read. What has no words has a `likeness` for each
    of its outputs, and where its kind is known `agreements` in the measures of that.
    """

    pack: Path
    pack_digest: str
    model_name: str
    machine_name: str
    rows: tuple[Row, ...]
    holders: tuple[HolderRow, ...]
    peaks: tuple[Peak, ...]
    answers: Agreement | None
    prompts: Agreement | None
    binds: str
    num_runs: int
    environment: dict[str, str]
    notes: tuple[str, ...]
    profile: tuple[tuple[str, float, float], ...] = ()
    answers_of_weights: Agreement | None = None
    prompts_of_weights: Agreement | None = None
    steps: tuple[StepQuality, ...] = ()
    text_tokens: int = 0
    likeness: tuple[Likeness, ...] = ()
    agreements: tuple[Agreed, ...] = ()
    report_path: Path | None = None

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """The promises that were not held, each with its numbers."""
        broken = [
            f"{row.what}: measured {format_amount(row.measured, row.unit)}, "
            f"promised {format_span(row.promised_low, row.promised_high, row.unit)}"
            for row in self.rows
            if row.holds is False and row.measured is not None
        ]
        broken += [
            f"memory of {peak.process}: {format_bytes(peak.peak_bytes)}, "
            f"{format_bytes(peak.peak_bytes - peak.budget_bytes)} more than the budget of "
            f"{format_bytes(peak.budget_bytes)}"
            for peak in self.peaks
            if not peak.holds
        ]
        return tuple(broken)

    @property
    def holds(self) -> bool:
        return not self.shortfalls

    @property
    def undecided(self) -> tuple[Row, ...]:
        """Promises of quality that so few words cannot decide."""
        return tuple(row for row in self.rows if row.verdict == "not decided")

    def tokens_needed(self, row: Row) -> int | None:
        """How many tokens of text would decide a row; None where nobody can tell.

        Where so few were read that nothing is known of how they vary, it is as many as a proof reads unasked.
        """
        found = self.prompts if row.what.startswith("prompt") else self.answers
        if found is None:
            return None
        if row.needed is None:
            unknown = found.kl.mean < inf and found.kl.high == inf and self.text_tokens < USUAL_TOKENS
            return USUAL_TOKENS if unknown else None
        return -(-row.needed * self.text_tokens // found.num_tokens)

    def row(self, what: str) -> Row:
        return next(row for row in self.rows if row.what == what)

    def to_json(self) -> dict[str, Any]:
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return {
            "pintpot_proof": VERSION,
            **data,
            "pack": str(self.pack),
            "report_path": None if self.report_path is None else str(self.report_path),
            "rows": [
                {**asdict(row), "share_of_limit": row.share_of_limit, "verdict": row.verdict} for row in self.rows
            ],
            "holders": [asdict(holder) for holder in self.holders],
            "peaks": [{**asdict(peak), "holds": peak.holds} for peak in self.peaks],
            **{key: _json(getattr(self, key)) for key in _AGREEMENTS},
            "steps": [asdict(step) for step in self.steps],
            "likeness": [asdict(one) for one in self.likeness],
            "agreements": [asdict(one) for one in self.agreements],
            "holds": self.holds,
            "shortfalls": list(self.shortfalls),
        }


_AGREEMENTS = ("answers", "prompts", "answers_of_weights", "prompts_of_weights")


def _json(found: Agreement | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)
