"""What scheduling is about: answers under way, the parts of a replay, and the tokens that come of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import takewhile

from pintpot.runtime.guesses import Luck
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.sequence import Sequence


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
    """A request under way on a sequence; `num_drawn` tokens of the answer are there, none while the prompt is read.

    `num_stops` times it was stopped for others; what it had said is then known, and no longer cached.
    """

    index: int
    sequence: Sequence
    request: Request
    num_prompt: int
    end: frozenset[int]
    num_drawn: int = 0
    luck: Luck = field(default_factory=Luck)
    draft_luck: Luck = field(default_factory=Luck)
    num_stops: int = 0

    @property
    def sampling(self) -> Sampling:
        return self.request.sampling

    @property
    def reads(self) -> bool:
        """Whether some of the prompt is still to be read."""
        return self.sequence.num_cached < self.num_prompt

    def part(self, room: int) -> Part:
        """What comes next of what is known and not cached, at most `room` tokens, of the prompt or of the answer."""
        first, known = self.sequence.num_cached, self.sequence.num_known
        stop = min(self.num_prompt if self.reads else known, first + room)
        return Part(self, first, stop, stop == known)

    def step(self, room: int) -> Part:
        """The next word; at most `room` words again of an answer that was stopped."""
        part = self.part(room)
        return replace(part, told=part.stop - part.first - part.last)

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

    The last of its tokens were `guessed`, `drafted` by another model, and what follows each of them is wanted too. What
    follows the first of them, so many, was `told` already, and is only computed because steps do so for all tokens.
    """

    answer: Answer
    first: int
    stop: int
    last: bool
    guessed: tuple[int, ...] = ()
    drafted: bool = False
    told: int = 0

    @property
    def num_rows(self) -> int:
        return self.told + self.last + len(self.guessed)


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay of a stage: so many tokens of so many sequences, in this order."""

    stage: str
    parts: tuple[Part, ...]
