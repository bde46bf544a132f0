"""Which sequences take part in the next replay, without a device.

Continuous batching: Orca (Yu et al. 2022). A sequence that is done leaves, and a request that waits takes its place.
Prompts are read in chunks, first of all, or in turn with steps of those that answer, or in one replay with them
(Sarathi-Serve, Agrawal et al. 2024, arXiv:2403.02310): see `Turns`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Literal

from pintpot.runtime.guesses import Luck
from pintpot.runtime.prefixes import Prefixes
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.sequence import Sequence
from pintpot.runtime.waiting import Waiting

if TYPE_CHECKING:
    from pintpot.runtime.guessing import Guessing

Turns = Literal["prompts first", "in turn", "together"]
"""Who goes next while prompts are read and others answer. First: nobody answers until all are read, which takes the
least time in all. In turn: a chunk, then a step, so that a long prompt holds nobody up for longer than a chunk takes.
Together: words of answers are tokens of the chunk, so that weights on disk are read once for both; they are then
rounded as those of prompts are."""


@dataclass(frozen=True, slots=True)
class Likely:
    """Log probability of a token, as the model had it before anything was asked of it, and the likeliest beside it."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token of the answer to request number `index`. `ended` says why it is the last one, "" where more will come.

    Reasons: "end", "length", "context".
    """

    index: int
    token: int
    ended: str
    likely: Likely | None = None


@dataclass(slots=True)
class Answer:
    """A request under way on a sequence; `num_drawn` tokens of the answer are there, none while the prompt is read."""

    index: int
    sequence: Sequence
    request: Request
    num_prompt: int
    end: frozenset[int]
    num_drawn: int = 0
    luck: Luck = field(default_factory=Luck)
    draft_luck: Luck = field(default_factory=Luck)

    @property
    def sampling(self) -> Sampling:
        return self.request.sampling

    def part(self, room: int) -> Part:
        """What comes next of what is known and not cached, at most `room` tokens."""
        first, known = self.sequence.num_cached, self.sequence.num_known
        stop = min(known, first + room)
        return Part(self, first, stop, stop == known)

    def draw(self, token: int, context: int) -> str:
        """Take a token. Returns why the answer ends with it, "" where it does not."""
        self.num_drawn += 1
        self.sequence.append(token)
        guide = self.request.guide
        if token in self.end or (guide is not None and guide.took(token)):
            return "end"
        if self.num_drawn == self.request.max_tokens:
            return "length"
        return "context" if self.sequence.num_known > context else ""


def num_positions(request: Request, context: int) -> int:
    """Positions of the cache that a request may come to need; the last word of an answer needs none."""
    return min(len(request.tokens) + request.max_tokens - 1, context)


def num_equal(one: Iterable[int], other: Iterable[int]) -> int:
    """How many items at the beginning are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


@dataclass(frozen=True, slots=True)
class Part:
    """Positions [first, stop) of one sequence in a replay; `last` says that its next token is wanted.

    The last of its tokens were `guessed`, `drafted` by another model, and what follows each of them is wanted too.
    """

    answer: Answer
    first: int
    stop: int
    last: bool
    guessed: tuple[int, ...] = ()
    drafted: bool = False

    @property
    def num_rows(self) -> int:
        return self.last + len(self.guessed)


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay of a stage: so many tokens of so many sequences, in this order."""

    stage: str
    parts: tuple[Part, ...]


class Scheduler:
    """Requests over the sequences of an engine. Ask for `next`, replay it, tell what was `drew`n, and so on.

    With `prefixes` prompts begin with pages that others have read, answers leave theirs for others, and a request
    begins only when all pages that it may come to need are there, so that what has begun can always be finished. With
    `guessing` a step also checks words that were guessed.
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

    def next(self) -> Replay | None:
        """The next replay; None while there is nothing to do. A request is only asked for when it can begin."""
        while self._free and (request := self._waiting.take(self._fits)) is not None:
            self._begin(*request)
        reading = [answer for answer in self.live if answer.num_drawn == 0]
        steps = [answer for answer in self.live if answer.num_drawn > 0]
        if reading and not (self._steps_next and steps):
            self._steps_next = self._turns == "in turn"
            beside = self._steps(steps) if self._turns == "together" and len(steps) < self._chunk else ()
            return Replay("prefill", (*beside, *self._chunk_of(reading, self._chunk - len(beside))))
        self._steps_next = False
        parts = self._steps(steps)
        if self._guessing is not None:
            parts = self._guessing.fill(parts)
        return Replay("decode", parts) if parts else None

    def drew(self, replay: Replay, tokens: Iterable[int], likely: Iterable[Likely | None] = ()) -> list[Drawn]:
        """Take the tokens that each part got: one where it is the `last`, one more for each that was guessed."""
        found, told = iter(tokens), iter(likely)
        drawn: list[Drawn] = []
        for part in replay.parts:
            mine = list(islice(found, part.num_rows))
            drawn += self._take(part, mine, list(islice(told, part.num_rows)))
        return drawn

    def leave(self, index: int) -> None:
        """End an answer early; nothing happens where it has ended."""
        for answer in [one for one in self.live if one.index == index]:
            self._end_of(answer)

    def progress(self) -> tuple[int, int]:
        """Tokens of the prompts under way that have been read, and all of them."""
        done = sum(min(answer.sequence.num_cached, answer.num_prompt) for answer in self.live)
        return done, sum(answer.num_prompt for answer in self.live)

    def _steps(self, answers: list[Answer]) -> tuple[Part, ...]:
        return tuple(answer.part(1) for answer in answers)

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

    def _fits(self, request: Request) -> bool:
        """Whether all pages that a request may need are there, beside those that the others may still come to need."""
        if self._prefixes is None:
            return True
        known = self._prefixes.find(memoryview(array("i", request.tokens)))
        pool, context = self._pool, self._context
        new = pool.num_for(num_positions(request, context)) - len(known)
        idle = pool.num_idle - sum(pool.is_idle(page) for page in known)
        owed = sum(
            max(0, pool.num_for(num_positions(one.request, context)) - one.sequence.table.num_held) for one in self.live
        )
        return new + owed <= pool.num_free + idle

    def _begin(self, index: int, request: Request) -> None:
        prompt = array("i", request.tokens)
        # The one that has most of it, else the one whose loss costs least.
        sequence = max(self._free, key=lambda one: (one.num_shared(prompt), -one.num_cached, -one.seat))
        self._free.remove(sequence)
        if self._prefixes is not None:
            sequence.forget(0)
            self._prefixes.begin(sequence, memoryview(prompt))
            sequence.tokens[: sequence.num_cached] = prompt[: sequence.num_cached]
        sequence.begin(prompt, request.pictures, self._sections)
        end = frozenset[int]() if request.ignore_end else self._end
        self.live.append(Answer(index, sequence, request, len(prompt), end))

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
        if self._prefixes is not None:
            self._prefixes.keep(answer.sequence, answer.sequence.num_cached)
            answer.sequence.forget(0)
