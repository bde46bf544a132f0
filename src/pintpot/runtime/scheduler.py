"""Which sequences take part in the next replay, without a device: prompts first, then all that answer side by side.

Continuous batching: Orca (Yu et al. 2022). A sequence that is done leaves, and a request that waits takes its place.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token of the answer to request number `index`. `ended` says why it is the last one, "" where more will come.

    Reasons: "end", "length", "context".
    """

    index: int
    token: int
    ended: str


@dataclass(slots=True)
class Answer:
    """A request under way on a sequence; `num_drawn` tokens of the answer are there, none while the prompt is read."""

    index: int
    sequence: Sequence
    sampling: Sampling
    num_prompt: int
    max_tokens: int
    end: frozenset[int]
    num_drawn: int = 0

    def part(self, room: int) -> Part:
        """What comes next of what is known and not cached, at most `room` tokens."""
        first, known = self.sequence.num_cached, self.sequence.num_known
        stop = min(known, first + room)
        return Part(self, first, stop, stop == known)

    def draw(self, token: int, context: int) -> str:
        """Take a token. Returns why the answer ends with it, "" where it does not."""
        self.num_drawn += 1
        self.sequence.append(token)
        if token in self.end:
            return "end"
        if self.num_drawn == self.max_tokens:
            return "length"
        return "context" if self.sequence.num_known > context else ""


@dataclass(frozen=True, slots=True)
class Part:
    """Positions [first, stop) of one sequence in a replay; `last` says that its next token is wanted."""

    answer: Answer
    first: int
    stop: int
    last: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay of a stage: so many tokens of so many sequences, in this order."""

    stage: str
    parts: tuple[Part, ...]


class Scheduler:
    """Requests over the sequences of an engine. Ask for `next`, replay it, tell what was `drew`n, and so on."""

    def __init__(
        self,
        requests: Iterable[Request],
        sequences: tuple[Sequence, ...],
        chunk: int,
        context: int,
        end: frozenset[int],
    ) -> None:
        self.live: list[Answer] = []
        self._waiting: Iterator[Request] = iter(requests)
        self._free = list(sequences)
        self._chunk, self._context, self._end = chunk, context, end
        self._num_begun = 0

    def next(self) -> Replay | None:
        """The next replay; None when all requests are answered. A request is only asked for when it can begin."""
        while self._free and (request := next(self._waiting, None)) is not None:
            self._begin(request)
        reading = [answer for answer in self.live if answer.num_drawn == 0]
        if reading:
            return Replay("prefill", self._chunk_of(reading))
        return Replay("decode", tuple(answer.part(1) for answer in self.live)) if self.live else None

    def drew(self, replay: Replay, tokens: Iterable[int]) -> list[Drawn]:
        """Take the token that each part with `last` got."""
        wanted = [part.answer for part in replay.parts if part.last]
        drawn = []
        for answer, token in zip(wanted, tokens, strict=True):
            ended = answer.draw(token, self._context)
            if ended:
                self._end_of(answer)
            drawn.append(Drawn(answer.index, token, ended))
        return drawn

    def leave(self, index: int) -> None:
        """End an answer early; nothing happens where it has ended."""
        for answer in [one for one in self.live if one.index == index]:
            self._end_of(answer)

    def progress(self) -> tuple[int, int]:
        """Tokens of the prompts under way that have been read, and all of them."""
        done = sum(min(answer.sequence.num_cached, answer.num_prompt) for answer in self.live)
        return done, sum(answer.num_prompt for answer in self.live)

    def _begin(self, request: Request) -> None:
        prompt = array("i", request.tokens)
        # The one that has most of it, else the one whose loss costs least.
        sequence = max(self._free, key=lambda one: (one.num_shared(prompt), -one.num_cached, -one.seat))
        self._free.remove(sequence)
        sequence.begin(prompt)
        end = frozenset[int]() if request.ignore_end else self._end
        answer = Answer(self._num_begun, sequence, request.sampling, len(prompt), request.max_tokens, end)
        self._num_begun += 1
        self.live.append(answer)

    def _chunk_of(self, reading: list[Answer]) -> tuple[Part, ...]:
        parts, room = [], self._chunk
        for answer in reading:
            parts.append(answer.part(room))
            room -= parts[-1].stop - parts[-1].first
            if room == 0:
                break
        return tuple(parts)

    def _end_of(self, answer: Answer) -> None:
        self.live.remove(answer)
        self._free.append(answer.sequence)
