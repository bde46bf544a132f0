"""An open pack that somebody talks to: text in, text out, and a line at the end of what was promised and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pintpot.errors import BadPack, UsageError
from pintpot.meter.memory import peak_bytes
from pintpot.model.tokens import Message, Tokenizer, conversation, encode_chat
from pintpot.planner.plan import Plan
from pintpot.runtime.answers import Answers, Piece, Samplings, each
from pintpot.runtime.pictures import Picture
from pintpot.runtime.request import Request, Sampling
from pintpot.runtime.showing import prompt_with, shown
from pintpot.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from pintpot._native import Ring
    from pintpot.runtime.engine import Engine
    from pintpot.runtime.eyes import Eyes


@dataclass(frozen=True, slots=True)
class Summary:
    """Promised and measured, of the last answer, or of the answers that were last given side by side.

    Speeds in tokens per second, of all sequences together; 0 where nothing was measured. `promised_sequences` is the
    plan's batch, which its decode speed is promised for, `num_sequences` how many took part in a step, in the mean.
    """

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
    promised_sequences: int = 1
    num_sequences: float = 1.0

    @property
    def cut_off(self) -> str:
        """Why the last answer ends before its end, in words; "" where it does not."""
        if self.ended == "length":
            return f"the answer was cut off after {self.num_tokens} tokens; --max-tokens allows more"
        if self.ended == "context":
            return "the answer was cut off where the context is full; plan with a larger --context"
        return ""

    @property
    def holds(self) -> bool:
        """Whether the memory that was promised sufficed."""
        return self.memory_bytes <= self.promised_memory_bytes

    def __str__(self) -> str:
        several, of = "", ""
        if self.promised_sequences > 1:
            several, of = f" with {self.num_sequences:.3g} sequences a step", f" with {self.promised_sequences}"
        above = "" if self.holds else f", {format_bytes(self.memory_bytes - self.promised_memory_bytes)} too much"
        return (
            f"memory {format_bytes(self.memory_bytes)} of {format_bytes(self.promised_memory_bytes)} promised{above}; "
            f"first word after {format_seconds(self.first_token_s)}; "
            f"decode {format_rate(self.decode_tokens_per_s, 'tok/s')}{several} "
            f"({self.promised_decode_low:.3g} to {self.promised_decode_high:.3g} promised{of})"
        )


class Session:
    """One conversation over an open pack, or many answers side by side. A context manager; it gives its memory back."""

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
        eyes: Eyes | None = None,
    ) -> None:
        self.folder, self.plan, self.tokenizer, self.engine, self.ring = folder, plan, tokenizer, engine, ring
        self.held, self.notes = held, notes
        self._closing, self.eyes = closing, eyes
        self._pictures: tuple[Picture, ...] = ()
        self._messages: list[Message] = []
        self._answers: Answers | None = None

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
        images: Sequence[str | Path] = (),
        system: str | None = None,
        sampling: Sampling | None = None,
        max_tokens: int = 256,
        stop: tuple[str, ...] = (),
    ) -> Iterator[str]:
        """The answer to one more turn of the conversation, piece by piece; the cache of the earlier turns is kept.

        `images` are files of pictures, which come before the text, for a model that sees.

        `system` counts on the first turn. An answer that was cancelled counts as far as it came; one that was left
        alone or failed leaves the conversation as it was. Raises UsageError when it no longer fits the context.
        """
        head = [] if self._messages or not system else [{"role": "system", "content": system}]
        pictures = (*self._pictures, *self._look_at(images))
        messages: list[Message] = [*head, *self._messages, shown(text, len(images))]
        tokens = self._tokens(messages, pictures)
        request = Request(tokens, max_tokens, sampling or Sampling(), stop, pictures=pictures)
        return self._turn(messages, self._alone(request), pictures)

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
        return self._alone(Request(tokens, max_tokens, sampling or Sampling(), stop, ignore_end))

    def chat_many(
        self,
        texts: Iterable[str],
        *,
        system: str | None = None,
        sampling: Samplings = None,
        max_tokens: int = 256,
        stop: tuple[str, ...] = (),
    ) -> Iterator[Piece]:
        """Answers to texts that have nothing to do with each other, each the first turn of a conversation of its own.

        As many run side by side as the plan's batch has; a text is asked for when its answer can begin. Yields
        (number, text, answer) as words come; `answer` is None until the last piece of each. One that does not fit the
        context is refused, and the others go on. `sampling` is one for all or one for each; the tokens of an answer do
        not depend on what else runs. The conversation of `chat` is neither read nor changed.
        """
        head = [{"role": "system", "content": system}] if system else []

        def tokens(text: str) -> tuple[int, ...]:
            return tuple(encode_chat(self.tokenizer, conversation(text, None, head)))

        return self._many(texts, tokens, sampling, max_tokens, stop)

    def complete_many(
        self,
        texts: Iterable[str],
        *,
        sampling: Samplings = None,
        max_tokens: int = 256,
        stop: tuple[str, ...] = (),
        ignore_end: bool = False,
    ) -> Iterator[Piece]:
        """What the model writes after each of several texts as they stand; side by side, as in `chat_many`."""
        return self._many(
            texts, lambda text: tuple(self.tokenizer.encode(text)), sampling, max_tokens, stop, ignore_end
        )

    def reset(self) -> None:
        """Forget the conversation."""
        self._messages.clear()
        self._pictures = ()
        self.engine.reset()

    def cancel(self) -> None:
        """End the answers under way; may be called from a signal handler or another thread."""
        self.engine.cancel()

    def summary(self) -> Summary:
        """Promised and measured, of the last answer, or of those that were last given side by side."""
        timing, cost, answers = self.engine.timing, self.plan.cost, self._answers
        promised = cost.stage("decode").tokens_per_s
        return Summary(
            promised_memory_bytes=cost.memory_high,
            memory_bytes=peak_bytes(),
            promised_decode_low=promised.low,
            promised_decode_high=promised.high,
            decode_tokens_per_s=timing.decode_tokens / timing.decode_s if timing.decode_s else 0.0,
            prefill_tokens_per_s=timing.prompt_tokens / timing.prompt_s if timing.prompt_s else 0.0,
            first_token_s=answers.first_token_s if answers else 0.0,
            num_prompt_tokens=answers.num_prompt_tokens if answers else 0,
            num_tokens=answers.num_tokens if answers else 0,
            ended=self.engine.ended,
            promised_sequences=self.plan.budget.workload.batch,
            num_sequences=timing.decode_tokens / max(1, len(timing.step_s)),
        )

    def _look_at(self, images: Sequence[str | Path]) -> tuple[Picture, ...]:
        if not images:
            return ()
        if self.eyes is None:
            raise UsageError(
                f"{self.plan.model_name} was packed for words alone; plan a model that sees, with --images"
            )
        return tuple(self.eyes.read(Path(image)) for image in images)

    def _tokens(self, messages: list[Message], pictures: tuple[Picture, ...]) -> tuple[int, ...]:
        if self.eyes is None or not pictures:
            return tuple(encode_chat(self.tokenizer, messages))
        return prompt_with(self.tokenizer, messages, pictures, self.eyes.about)

    def _turn(
        self, messages: list[Message], pieces: Iterator[str], pictures: tuple[Picture, ...] = ()
    ) -> Iterator[str]:
        answer: list[str] = []
        for piece in pieces:
            answer.append(piece)
            yield piece
        self._messages = [*messages, {"role": "assistant", "content": "".join(answer)}]
        self._pictures = pictures

    def _alone(self, request: Request) -> Iterator[str]:
        self.engine.check(request)
        return (piece.text for piece in self._begin((lambda: request,)) if piece.text)

    def _many(
        self,
        texts: Iterable[str],
        tokens: Callable[[str], tuple[int, ...]],
        sampling: Samplings,
        max_tokens: int,
        stop: tuple[str, ...],
        ignore_end: bool = False,
    ) -> Iterator[Piece]:
        # What would be wrong with every request is told before any.
        Request((0,), max_tokens, Sampling(), stop, ignore_end)

        def maker(text: str, how: Sampling) -> Callable[[], Request]:
            return lambda: Request(tokens(text), max_tokens, how, stop, ignore_end)

        return self._begin(map(maker, texts, each(sampling)))

    def _begin(self, makers: Iterable[Callable[[], Request]]) -> Iterator[Piece]:
        self._answers = Answers(self.engine, self.tokenizer, makers)
        return self._noting_damage(self._answers.pieces())

    def _noting_damage(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The pieces. What streams is checked when it is first read, which may be in the middle of an answer."""
        try:
            yield from pieces
        except BadPack as error:
            from pintpot.packer.shelf import note_damage

            note_damage(self.folder, str(error))
            raise
