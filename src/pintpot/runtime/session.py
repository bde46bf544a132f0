"""An open pack that somebody talks to: text in, text out, and a line at the end of what was promised and measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pintpot.errors import BadPack
from pintpot.meter.memory import peak_bytes
from pintpot.model.tokens import Message, StopMatcher, TextStream, Tokenizer, conversation, encode_chat
from pintpot.packer.shelf import note_damage
from pintpot.planner.plan import Plan
from pintpot.runtime.request import Request, Sampling
from pintpot.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from pintpot._native import Ring
    from pintpot.runtime.engine import Engine


@dataclass(frozen=True, slots=True)
class Summary:
    """Promised and measured, of the last answer. Speeds in tokens per second; 0 where nothing was measured."""

    promised_memory_bytes: int
    memory_bytes: int
    promised_decode_low: float
    promised_decode_high: float
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    first_token_s: float
    num_prompt_tokens: int
    num_tokens: int
    ended: str

    def __str__(self) -> str:
        return (
            f"memory {format_bytes(self.memory_bytes)} of {format_bytes(self.promised_memory_bytes)} promised; "
            f"first word after {format_seconds(self.first_token_s)}; "
            f"decode {format_rate(self.decode_tokens_per_s, 'tok/s')} "
            f"({self.promised_decode_low:.3g} to {self.promised_decode_high:.3g} promised)"
        )


class Session:
    """One conversation over an open pack. A context manager; close it to give its memory back."""

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        tokenizer: Tokenizer,
        engine: Engine,
        ring: Ring | None,
        held: Mapping[str, int],
        notes: tuple[str, ...],
        closing: ExitStack,
    ) -> None:
        self.folder, self.plan, self.tokenizer, self.engine, self.ring = folder, plan, tokenizer, engine, ring
        self.held, self.notes = held, notes
        self._closing = closing
        self._messages: list[Message] = []
        self._first_token_s = 0.0
        self._num_tokens = self._num_prompt = 0

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give memory and lock back; an answer under way ends with UsageError when it is asked for more."""
        self._closing.close()

    def chat(
        self,
        text: str,
        *,
        system: str | None = None,
        sampling: Sampling | None = None,
        max_tokens: int = 256,
        stop: tuple[str, ...] = (),
    ) -> Iterator[str]:
        """The answer to one more turn of the conversation, piece by piece; the cache of the earlier turns is kept.

        `system` counts on the first turn. An answer that was cancelled counts as far as it came; one that was left
        alone or failed leaves the conversation as it was. Raises UsageError when it no longer fits the context.
        """
        head = [] if self._messages or not system else [{"role": "system", "content": system}]
        messages = conversation(text, None, [*head, *self._messages])
        tokens = tuple(encode_chat(self.tokenizer, messages))
        return self._turn(messages, self._answer(Request(tokens, max_tokens, sampling or Sampling(), stop)))

    def complete(
        self,
        text: str,
        *,
        sampling: Sampling | None = None,
        max_tokens: int = 256,
        stop: tuple[str, ...] = (),
        ignore_end: bool = False,
    ) -> Iterator[str]:
        """What the model writes after a text as it stands, without a chat template."""
        tokens = tuple(self.tokenizer.encode(text))
        return self._answer(Request(tokens, max_tokens, sampling or Sampling(), stop, ignore_end))

    def reset(self) -> None:
        """Forget the conversation."""
        self._messages.clear()
        self.engine.reset()

    def cancel(self) -> None:
        """End the answer under way; may be called from a signal handler or another thread."""
        self.engine.cancel()

    def summary(self) -> Summary:
        """Promised and measured, of the last answer."""
        timing, cost = self.engine.timing, self.plan.cost
        promised = cost.stage("decode").tokens_per_s
        return Summary(
            promised_memory_bytes=cost.memory_high,
            memory_bytes=peak_bytes(),
            promised_decode_low=promised.low,
            promised_decode_high=promised.high,
            decode_tokens_per_s=timing.decode_tokens / timing.decode_s if timing.decode_s else 0.0,
            prefill_tokens_per_s=timing.prompt_tokens / timing.prompt_s if timing.prompt_s else 0.0,
            first_token_s=self._first_token_s,
            num_prompt_tokens=self._num_prompt,
            num_tokens=self._num_tokens,
            ended=self.engine.ended,
        )

    def _turn(self, messages: list[Message], pieces: Iterator[str]) -> Iterator[str]:
        answer: list[str] = []
        for piece in pieces:
            answer.append(piece)
            yield piece
        self._messages = [*messages, {"role": "assistant", "content": "".join(answer)}]

    def _answer(self, request: Request) -> Iterator[str]:
        tokens = self.engine.generate(request, frozenset(self.tokenizer.eos_ids))
        return self._pieces(request, self._noting_damage(tokens))

    def _noting_damage(self, tokens: Iterator[int]) -> Iterator[int]:
        """The tokens. What streams is checked when it is first read, which may be in the middle of an answer."""
        try:
            yield from tokens
        except BadPack as error:
            note_damage(self.folder, str(error))
            raise

    def _pieces(self, request: Request, tokens: Iterator[int]) -> Iterator[str]:
        started = time.perf_counter()
        stream, stopper = TextStream(self.tokenizer, request.tokens), StopMatcher(request.stop)
        self._num_tokens, self._num_prompt = 0, len(request.tokens)
        for token in tokens:
            if self._num_tokens == 0:
                self._first_token_s = time.perf_counter() - started
            self._num_tokens += 1
            piece = stopper.push(stream.push(token))
            if piece:
                yield piece
            if stopper.stopped:
                self.engine.ended = "stop"
                return
        rest = stopper.push(stream.finish()) + stopper.finish()
        if rest:
            yield rest
