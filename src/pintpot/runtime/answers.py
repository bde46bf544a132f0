"""Answers as text: what several requests that run side by side say, piece by piece, and what each said in the end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

from pintpot.errors import UsageError
from pintpot.model.tokens import StopMatcher, TextStream, Tokenizer
from pintpot.runtime.engine import Engine
from pintpot.runtime.request import Request, Sampling

Samplings = Sampling | Iterable[Sampling] | None
"""How the words of several answers are drawn: all alike, or each by its own."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `ended`: "end", "stop", "length", "context", "cancelled", or "refused", for the reason `why`."""

    text: str
    ended: str
    num_prompt_tokens: int
    num_tokens: int
    why: str = ""


class Piece(NamedTuple):
    """What the answer to text `number` goes on with; its last piece, which may be empty, brings the whole `answer`."""

    number: int
    text: str
    answer: Answer | None = None


class Voice:
    """One answer in the making: tokens in, text out, up to a stop string."""

    def __init__(self, number: int, tokenizer: Tokenizer, request: Request) -> None:
        self._number, self._num_prompt = number, len(request.tokens)
        self._stream, self._stopper = TextStream(tokenizer, request.tokens), StopMatcher(request.stop)
        self._said: list[str] = []
        self._num_tokens = 0

    def push(self, token: int, ended: str) -> Piece:
        self._num_tokens += 1
        text = self._stopper.push(self._stream.push(token))
        if self._stopper.stopped:
            return self._last(text, "stop")
        if ended:
            return self.finish(ended, text)
        self._said.append(text)
        return Piece(self._number, text)

    def finish(self, ended: str, text: str = "") -> Piece:
        """The end, with what was held back."""
        text += self._stopper.push(self._stream.finish())
        return self._last(text + self._stopper.finish(), ended)

    def _last(self, text: str, ended: str) -> Piece:
        whole = "".join((*self._said, text))
        return Piece(self._number, text, Answer(whole, ended, self._num_prompt, self._num_tokens))


class Answers:
    """Requests that run side by side, and how much they have said. Ask for `pieces` once."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, makers: Iterable[Callable[[], Request]]) -> None:
        self._engine, self._tokenizer = engine, tokenizer
        self._voices: dict[int, Voice] = {}
        self._refused: deque[Piece] = deque()
        self._num_begun = 0
        self.num_prompt_tokens = self.num_tokens = 0
        self.first_token_s = 0.0
        self._drawn = engine.generate_many(self._requests(makers), frozenset(tokenizer.eos_ids))

    def pieces(self) -> Iterator[Piece]:
        """Pieces of all answers as they come. A request that cannot be made is refused, and the others go on."""
        started = time.perf_counter()
        for drawn in self._drawn:
            if self.num_tokens == 0:
                self.first_token_s = time.perf_counter() - started
            self.num_tokens += 1
            piece = self._voices[drawn.index].push(drawn.token, drawn.ended)
            if piece.answer is not None:
                self._over(drawn.index, piece.answer.ended)
            yield from self._told()
            if piece.text or piece.answer is not None:
                yield piece
        yield from self._told()
        # Only a cancelled run leaves answers without an end.
        for voice in self._voices.values():
            yield voice.finish("cancelled")

    def _over(self, begun: int, ended: str) -> None:
        del self._voices[begun]
        self._engine.ended = ended
        self._engine.leave(begun)

    def _told(self) -> Iterator[Piece]:
        while self._refused:
            yield self._refused.popleft()

    def _requests(self, makers: Iterable[Callable[[], Request]]) -> Iterator[Request]:
        """The requests that can be run; each is made when there is room for it."""
        for number, make in enumerate(makers):
            try:
                request = make()
                self._engine.check(request)
            except UsageError as error:
                self._refused.append(Piece(number, "", Answer("", "refused", 0, 0, str(error))))
                continue
            self._voices[self._num_begun] = Voice(number, self._tokenizer, request)
            self._num_begun += 1
            self.num_prompt_tokens += len(request.tokens)
            yield request


def each(sampling: Samplings) -> Iterator[Sampling]:
    """One for each answer. Raises UsageError when there are fewer of them than answers."""
    yield from repeat(sampling or Sampling()) if sampling is None or isinstance(sampling, Sampling) else sampling
    raise UsageError("there are more prompts than samplings; give one for each, or one for all")
