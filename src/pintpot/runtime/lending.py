"""Pages that sequences share and that may run out: who may begin, who stops for others, and what it goes on with.

Requests begin by the length that answers had lately, not by the longest that was asked for (Kwon et al. 2023,
arXiv:2309.06180). Where pages run out, whoever has least right to them stops; what it had cached is moved to a disk and
back, or computed once more, whichever takes less.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from pintpot.runtime.pages import PagePool
from pintpot.runtime.parts import Answer, Part, num_positions
from pintpot.runtime.prefixes import Prefixes
from pintpot.runtime.request import Request
from pintpot.runtime.sequence import Sequence

_FADING = 0.9


@dataclass(frozen=True, slots=True)
class Kept:
    """The first `num_tokens` positions of a sequence as they lie in records of a file, one for each page."""

    num_tokens: int
    records: tuple[int, ...]


class Mover(Protocol):
    """Moves pages to where there is more room, and back."""

    def save(self, sequence: Sequence, num_prompt: int) -> Kept | None:
        """What a sequence has cached, its prompt of so many tokens first; None where computing it again takes less."""

    def load(self, kept: Kept, sequence: Sequence) -> None:
        """What was saved, into the pages that a sequence has for it; what it has cached already stays."""

    def drop(self, kept: Kept) -> None:
        """Nobody wants what was saved any more."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """An answer that waits to go on: its tokens, and what was saved of its pages."""

    answer: Answer
    tokens: array[int]
    kept: Kept | None


class Lending:
    """The pages of a pool, lent to sequences which may come to need more than there are.

    Who was stopped once goes on only when all pages that it may need are there, and is then the last to stop again;
    together such answers need no more than there is, so each of them ends. `output` tokens are a first guess at the
    length of answers.
    """

    def __init__(
        self, pool: PagePool, context: int, sequences: tuple[Sequence, ...], output: int, mover: Mover | None = None
    ) -> None:
        self.num_stops = 0
        self.stopped: dict[int, Stopped] = {}
        self._pool, self._context, self._sequences, self._mover = pool, context, sequences, mover
        self._length = float(output)
        self._scarce = pool.num_pages < len(sequences) * pool.num_for(context)

    def may_begin(
        self, number: int, request: Request, live: Iterable[Answer], free: Iterable[Sequence], prefixes: Prefixes | None
    ) -> bool:
        """Whether there are the pages that a request will need, beside those that the others are yet to need."""
        if not self._scarce:
            return True
        pool, stopped = self._pool, self.stopped.get(number)
        known = memoryview(array("i", request.tokens) if stopped is None else stopped.tokens)
        have = [] if prefixes is None else prefixes.find(known)
        answer = None if stopped is None else stopped.answer
        new = self._wanted(request, answer) - len(have)
        owed = sum(max(0, self._wanted(one.request, one) - one.sequence.table.num_held) for one in live)
        return new + owed <= self._room(free) - sum(pool.is_idle(page) for page in have)

    def lacks(self, parts: Iterable[Part], free: Iterable[Sequence]) -> bool:
        """Whether a replay needs more pages than there are; those that free sequences still hold are given back."""
        if not self._scarce:
            return False
        tables = ((part.stop, part.answer.sequence.table) for part in parts)
        return not self._found(sum(max(0, self._pool.num_for(stop) - len(table.pages)) for stop, table in tables), free)

    def stop(self, answer: Answer, prefixes: Prefixes | None) -> None:
        """Take all pages from an answer."""
        sequence = answer.sequence
        tokens = array("i", sequence.tokens[: sequence.num_known])
        kept = None if self._mover is None else self._mover.save(sequence, answer.num_prompt)
        if kept is None and prefixes is not None:
            prefixes.keep(sequence, sequence.num_cached)
        sequence.forget(0)
        answer.num_stops += 1
        self.num_stops += 1
        self.stopped[answer.index] = Stopped(answer, tokens, kept)

    def go_on(self, stopped: Stopped, sequence: Sequence, free: Iterable[Sequence]) -> Answer:
        """An answer has a sequence again, which knows its tokens; what was saved of it is cached."""
        answer, kept = stopped.answer, stopped.kept
        del self.stopped[answer.index]
        answer.sequence = sequence
        if kept is not None and self._mover is not None:
            if sequence.num_cached < kept.num_tokens and self._found(len(kept.records), free):
                sequence.table.extend(sequence.num_cached, kept.num_tokens)
                self._mover.load(kept, sequence)
            self._mover.drop(kept)
        return answer

    def forget(self, number: int) -> None:
        """Nobody wants the answer to this request any more; nothing happens where it was not stopped."""
        stopped = self.stopped.pop(number, None)
        if stopped is not None and stopped.kept is not None and self._mover is not None:
            self._mover.drop(stopped.kept)

    def learn(self, answer: Answer) -> None:
        """An answer has ended: so long they are."""
        if answer.num_drawn:
            self._length = _FADING * self._length + (1 - _FADING) * answer.num_drawn

    def _wanted(self, request: Request, answer: Answer | None) -> int:
        """Pages that a request is expected to need in all; all that it may need, where it was stopped before."""
        pool, most = self._pool, num_positions(request, self._context)
        if answer is not None and answer.num_stops:
            return pool.num_for(most)
        drawn = 0 if answer is None else answer.num_drawn + pool.page_tokens
        return pool.num_for(min(most, len(request.tokens) + max(round(self._length), drawn)))

    def _found(self, needed: int, free: Iterable[Sequence]) -> bool:
        """Whether so many pages can be had now; free sequences give theirs for it."""
        for sequence in free:
            if needed <= self._pool.num_free + self._pool.num_idle:
                break
            sequence.forget(0)
        return needed <= self._pool.num_free + self._pool.num_idle

    def _room(self, free: Iterable[Sequence]) -> int:
        """Pages that can be had without stopping anybody."""
        return self._pool.num_free + self._pool.num_idle + sum(one.table.num_held for one in free)
