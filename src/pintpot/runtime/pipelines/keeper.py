"""Who of a pipeline's stages is in memory: all of them where the budget has room, else those that were needed last.

The budget is that of the whole process. What it holds without any stage is measured; what each open stage holds is its
plan's promise, beside the interpreter and torch, which all share. So the peak is the worst stage, not their sum.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pintpot.errors import DoesNotFit, need
from pintpot.meter.memory import peak_bytes, resident_bytes
from pintpot.planner.cost import Span
from pintpot.planner.names import PROCESS, TORCH
from pintpot.units import format_bytes

if TYPE_CHECKING:
    from pintpot.planner.plan import Plan
    from pintpot.runtime.module import ModuleSession

ROUND_BYTES = 32_000_000
"""What stages may take is rounded down to this, so that the same budget asks the same question another day."""
LATER_BYTES = 32_000_000
"""What planning, torch and the pipeline's library take when they first do something; 23 MB were seen."""
_SHARED = (PROCESS, TORCH)


@dataclass(frozen=True)
class Makers:
    """How a stage comes to be, in processes apart where the caller wants that.

    `plan` takes the folder of a recording and the bytes it may take with interpreter and torch; `pack` also its plan;
    `opened` a pack's folder.
    """

    plan: Callable[[Path, int], Plan]
    pack: Callable[[Path, Plan, int], Path]
    opened: Callable[[Path], ModuleSession]


@dataclass
class Entry:
    """One recorded call of a stage: what was promised of it, and what it took so far."""

    stage: str
    recording: Path
    plan: Plan
    num_calls: int = 0
    num_openings: int = 0
    open_s: float = 0.0
    run_s: float = 0.0
    session: ModuleSession | None = field(default=None, repr=False)

    @property
    def own_bytes(self) -> int:
        """What it holds while it is open, beside what all share."""
        return sum(holder.high for holder in self.plan.cost.holders if holder.name not in _SHARED)


@dataclass(frozen=True, slots=True)
class Row:
    """What a stage promised beside what it took: seconds of one opening and of one call, bytes while it is open."""

    stage: str
    num_calls: int
    num_openings: int
    promised_open_s: Span
    open_s: float | None
    promised_call_s: Span
    call_s: float | None
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A pipeline's stages, its whole memory, and the seconds of all openings and calls together."""

    rows: tuple[Row, ...]
    memory_bytes: int
    promised_peak_bytes: int
    peak_bytes: int | None
    promised_s: Span
    seconds: float | None

    def __str__(self) -> str:
        head = f"{'stage':20} {'calls':>6} {'opened':>6} {'one opening, s':>22} {'one call, s':>22} {'MB':>8}"
        lines = [head] + [
            f"{row.stage:20} {row.num_calls:6} {row.num_openings:6} {_beside(row.open_s, row.promised_open_s):>22} "
            f"{_beside(row.call_s, row.promised_call_s):>22} {row.num_bytes / 1e6:8.1f}"
            for row in self.rows
        ]
        reached = "" if self.peak_bytes is None else f"{format_bytes(self.peak_bytes)} of "
        lines.append(
            f"memory: {reached}{format_bytes(self.promised_peak_bytes)} promised, budget "
            f"{format_bytes(self.memory_bytes)}; seconds: {_beside(self.seconds, self.promised_s)}"
        )
        return "\n".join(lines)


class Keeper:
    """Opens stages when they are called, and closes others first where the sum does not fit."""

    def __init__(self, memory_bytes: int, makers: Makers, process_bytes: int) -> None:
        """`process_bytes` is what interpreter and torch weigh in every plan. Raises DoesNotFit for too little."""
        self.memory_bytes, self._makers = memory_bytes, makers
        self.beside_bytes = max(0, resident_bytes() - process_bytes) + LATER_BYTES
        """What this process holds without any stage: the pipeline's library, tokenizers, and the caller's own."""
        self.stage_bytes = (memory_bytes - self.beside_bytes) // ROUND_BYTES * ROUND_BYTES
        self._base = process_bytes + self.beside_bytes
        room, needed = format_bytes(memory_bytes), format_bytes(self._base)
        need(self.room_bytes(0) > 0, f"a budget of {room} for a process that holds {needed}", DoesNotFit)
        self.entries: list[Entry] = []

    def entry(self, stage: str, recording: Path) -> Entry:
        """The entry of a recording, planned. Raises DoesNotFit where it alone is too much."""
        for known in self.entries:
            if known.recording == recording:
                return known
        self.entries.append(Entry(stage, recording, self._makers.plan(recording, self.stage_bytes)))
        return self.entries[-1]

    def open(self, entry: Entry) -> ModuleSession:
        """An open session of an entry; others leave memory for it where they have to, those longest unused first."""
        self.entries.remove(entry)
        self.entries.append(entry)
        if entry.session is None:
            folder = self._makers.pack(entry.recording, entry.plan, self.stage_bytes)
            for other in self.entries:
                if self.room_bytes(self._open_bytes()) >= entry.own_bytes:
                    break
                self.release(other)
            started = time.perf_counter()
            entry.session = self._makers.opened(folder)
            entry.open_s += time.perf_counter() - started
            entry.num_openings += 1
        return entry.session

    def release(self, entry: Entry) -> None:
        """A stage leaves memory; its next call opens it again."""
        if entry.session is not None:
            entry.session.close()
            entry.session = None

    def close(self) -> None:
        """All stages leave memory."""
        for entry in self.entries:
            self.release(entry)

    def room_bytes(self, open_bytes: int) -> int:
        """What the budget leaves beside the process and so many bytes of open stages."""
        return self.memory_bytes - self._base - open_bytes

    def _open_bytes(self) -> int:
        return sum(entry.own_bytes for entry in self.entries if entry.session is not None)

    def receipt(self) -> Receipt:
        """Promised beside measured, of all calls so far."""
        return self._receipt(tuple(map(_row, self.entries)), measured=True)

    def promise(self) -> Receipt:
        """The same of calls that were only planned; each stage is opened once for as long as it is called."""
        return self._receipt(tuple(map(_row, self.entries)), measured=False)

    def _receipt(self, rows: tuple[Row, ...], *, measured: bool) -> Receipt:
        together = self._base + sum(row.num_bytes for row in rows)
        alone = self._base + max((row.num_bytes for row in rows), default=0)
        # Those that fit side by side stay, so the peak may come near the budget; never above it.
        peak = together if together <= self.memory_bytes else max(alone, self.memory_bytes)
        spans = [row.promised_open_s * max(1, row.num_openings) + row.promised_call_s * row.num_calls for row in rows]
        taken = sum(entry.open_s + entry.run_s for entry in self.entries)
        return Receipt(
            rows, self.memory_bytes, peak, peak_bytes() if measured else None,
            sum(spans, Span.exactly(0.0)), taken if measured else None,
        )  # fmt: skip


def _row(entry: Entry) -> Row:
    cost = entry.plan.cost
    return Row(
        entry.stage, entry.num_calls, entry.num_openings, cost.open_s,
        entry.open_s / entry.num_openings if entry.num_openings else None, cost.per_token_s,
        entry.run_s / entry.num_calls if entry.num_calls and entry.num_openings else None, entry.own_bytes,
    )  # fmt: skip


def _beside(found: float | None, promised: Span) -> str:
    span = f"{promised.low:.3g} to {promised.high:.3g}"
    return span if found is None else f"{found:.3g} ({span})"
