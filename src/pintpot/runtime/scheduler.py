"""Which sequences take part in the next replay, without a device.

Continuous batching: Orca (Yu et al. 2022). A sequence that is done leaves, and a request that waits takes its place.
Prompts are read in chunks, first of all, or in turn with steps of those that answer, or in one replay with them
(Sarathi-Serve, Agrawal et al. 2024, arXiv:2403.02310): see `Turns`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Literal

from pintpot.runtime.lending import Lending, Mover
from pintpot.runtime.parts import Answer as Answer
from pintpot.runtime.parts import Drawn as Drawn
from pintpot.runtime.parts import Likely as Likely
from pintpot.runtime.parts import Part as Part
from pintpot.runtime.parts import Replay as Replay
from pintpot.runtime.parts import num_equal
from pintpot.runtime.parts import num_positions as num_positions
from pintpot.runtime.prefixes import Prefixes
from pintpot.runtime.request import Request
from pintpot.runtime.sequence import Sequence
from pintpot.runtime.waiting import Waiting

if TYPE_CHECKING:
    from pintpot.runtime.guessing import Guessing

Turns = Literal["prompts first", "in turn", "together"]
"""Who goes next while prompts are read and others answer. First: nobody answers until all are read, which takes the
least time in all. In turn: a chunk, then a step, so that a long prompt holds nobody up for longer than a chunk takes.
Together: words of answers are tokens of the chunk, so that weights on disk are read once for both; they are then
rounded as those of prompts are."""


class Scheduler:
    """Requests over the sequences of an engine. Ask for `next`, replay it, tell what was `drew`n, and so on.

    With `prefixes` prompts begin with pages that others have read, and answers leave theirs for others. With `guessing`
    a step also checks words that were guessed. A step computes `step_tokens` tokens at most. Where sequences share
    fewer pages than they may need, see `Lending`: some stop for others, whose pages a `mover` may save; they then read
    their prompts again, and take the steps of the words that they had said, several in one replay, so that what they
    have cached is what they had.
    """

    def __init__(
        self,
        waiting: Waiting,
        sequences: tuple[Sequence, ...],
        chunk: int,
        context: int,
        end: frozenset[int],
        *,
        turns: Turns = "prompts first",
        prefixes: Prefixes | None = None,
        guessing: Guessing | None = None,
        sections: bool = False,
        step_tokens: int | None = None,
        output: int = 128,
        mover: Mover | None = None,
    ) -> None:
        self.live: list[Answer] = []
        self._waiting = waiting
        self._free = list(sequences)
        self._chunk, self._context, self._end = chunk, context, end
        self._turns: Turns = turns
        self._prefixes = prefixes
        self._guessing = guessing
        self._pool = sequences[0].table.pool
        self._steps_next = False
        self._sections = sections
        self._step_tokens = step_tokens or len(sequences)
        self.lending = Lending(self._pool, context, sequences, output, mover)

    def next(self) -> Replay | None:
        """The next replay; None while there is nothing to do. A request is only asked for when it can begin."""
        while self._free and (request := self._waiting.take(self._fits)) is not None:
            self._begin(*request)
        replay = self._composed()
        while replay is not None and self.lending.lacks(replay.parts, self._free) and len(self.live) > 1:
            self._stop()
            replay = self._composed()
        self._steps_next = self._turns == "in turn" and replay is not None and replay.stage == "prefill"
        if replay is None or replay.stage == "prefill" or self._guessing is None:
            return replay
        guessed = self._guessing.fill(replay.parts)
        return replay if self.lending.lacks(guessed, self._free) else Replay("decode", guessed)

    def drew(self, replay: Replay, tokens: Iterable[int], likely: Iterable[Likely | None] = ()) -> list[Drawn]:
        """Take the tokens that each part got: one where it is the `last`, one more for each that was guessed."""
        found, told = iter(tokens), iter(likely)
        drawn: list[Drawn] = []
        for part in replay.parts:
            mine, beside = list(islice(found, part.num_rows)), list(islice(told, part.num_rows))
            drawn += self._take(part, mine[part.told :], beside[part.told :])
        return drawn

    def leave(self, index: int) -> None:
        """End an answer early; nothing happens where it has ended."""
        self.lending.forget(index)
        for answer in [one for one in self.live if one.index == index]:
            self._end_of(answer)

    def progress(self) -> tuple[int, int]:
        """Tokens of the prompts under way that have been read, and all of them."""
        done = sum(min(answer.sequence.num_cached, answer.num_prompt) for answer in self.live)
        return done, sum(answer.num_prompt for answer in self.live)

    def _composed(self) -> Replay | None:
        """What would be computed next if there are pages enough."""
        reading = [answer for answer in self.live if answer.reads]
        steps = [answer for answer in self.live if not answer.reads]
        if reading and not (self._steps_next and steps):
            together = self._turns == "together" and len(steps) < self._chunk
            beside = tuple(answer.part(1) for answer in steps) if together else ()
            return Replay("prefill", (*beside, *self._chunk_of(reading, self._chunk - len(beside))))
        return Replay("decode", self._steps(steps)) if steps else None

    def _steps(self, answers: list[Answer]) -> tuple[Part, ...]:
        """The next word of each answer; those that were stopped take several steps that they took before."""
        parts, spare = [], self._step_tokens - len(answers)
        for answer in answers:
            parts.append(answer.step(1 + spare))
            spare -= parts[-1].stop - parts[-1].first - 1
        return tuple(parts)

    def _stop(self) -> None:
        """Whoever has least right to its pages waits; those that were stopped before go on, where there are others."""
        answer = max(self.live, key=lambda one: (one.num_stops == 0, self._waiting.right(one.index)))
        self.live.remove(answer)
        self._free.append(answer.sequence)
        self.lending.stop(answer, self._prefixes)
        self._waiting.stop(answer.index, answer.request)

    def _take(self, part: Part, tokens: list[int], likely: list[Likely | None]) -> Iterator[Drawn]:
        answer = part.answer
        if answer.num_drawn == 0 and self._prefixes is not None:
            self._prefixes.keep(answer.sequence, answer.sequence.num_cached)
        if part.guessed:
            tokens = tokens[: 1 + num_equal(tokens, part.guessed)]
            answer.sequence.forget(part.first + len(tokens))
            if self._guessing is not None:
                self._guessing.learn(part, len(tokens) - 1)
        for place, token in enumerate(tokens):
            ended = answer.draw(token, self._context)
            if ended:
                self._end_of(answer)
            yield Drawn(answer.index, token, ended, likely[place] if likely else None)
            if ended:
                return

    def _fits(self, number: int, request: Request) -> bool:
        return self.lending.may_begin(number, request, self.live, self._free, self._prefixes)

    def _begin(self, index: int, request: Request) -> None:
        stopped = self.lending.stopped.get(index)
        known = array("i", request.tokens) if stopped is None else stopped.tokens
        # The one that has most of it, else the one whose loss costs least.
        sequence = max(self._free, key=lambda one: (one.num_shared(known), -one.num_cached, -one.seat))
        self._free.remove(sequence)
        if self._prefixes is not None:
            sequence.forget(0)
            follow = self._prefixes.begin if stopped is None else self._prefixes.go_on
            follow(sequence, memoryview(known))
            sequence.tokens[: sequence.num_cached] = known[: sequence.num_cached]
        sequence.begin(known, request.pictures, self._sections)
        if stopped is not None:
            self.live.append(self.lending.go_on(stopped, sequence, self._free))
            return
        end = frozenset[int]() if request.ignore_end else self._end
        self.live.append(Answer(index, sequence, request, len(known), end))

    def _chunk_of(self, reading: list[Answer], room: int) -> tuple[Part, ...]:
        """What is read next. Whoever would read what another reads in the same chunk waits, and has it then."""
        parts: list[Part] = []
        begun: set[tuple[int, bytes]] = set()
        for answer in reading:
            if self._prefixes is not None:
                self._prefixes.go_on(answer.sequence, answer.sequence.tokens[: answer.num_prompt])
                if begun & (page := self._next_page(answer)):
                    continue
                begun |= page
            parts.append(answer.part(room))
            room -= parts[-1].stop - parts[-1].first
            if room == 0:
                break
        return tuple(parts)

    def _next_page(self, answer: Answer) -> set[tuple[int, bytes]]:
        """Where the next page of a prompt begins, and its tokens; nothing where less than a page is left."""
        first, size = answer.sequence.num_cached, self._pool.page_tokens
        if first % size or first + size >= answer.num_prompt:
            return set()
        return {(first, answer.sequence.tokens[first : first + size].tobytes())}

    def _end_of(self, answer: Answer) -> None:
        self.live.remove(answer)
        self._free.append(answer.sequence)
        self.lending.learn(answer)
        if self._prefixes is not None:
            self._prefixes.keep(answer.sequence, answer.sequence.num_cached)
            answer.sequence.forget(0)
