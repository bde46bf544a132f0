"""What answers look like on the wire, whole or in pieces: chat and plain completions in OpenAI's form."""

from __future__ import annotations

import secrets
import time
from typing import Any

from pintpot.model.tokens import Tokenizer
from pintpot.runtime.answers import Answer
from pintpot.runtime.scheduler import Likely
from pintpot.server.answering import Said
from pintpot.server.wire import Asked

REASONS = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}


class Teller:
    """Makes bodies for one request."""

    def __init__(self, asked: Asked, tokenizer: Tokenizer) -> None:
        self._asked, self._tokenizer = asked, tokenizer
        self._id = ("chatcmpl-" if asked.chat else "cmpl-") + secrets.token_hex(12)
        self._created = int(time.time())
        self._begun: set[int] = set()
        self._num_chars: dict[int, int] = {}

    def whole(self, said: list[Said]) -> dict[str, Any]:
        """One body of all that was said, choice by choice."""
        choices = []
        for index in sorted({one.index for one in said}):
            mine = [one for one in said if one.index == index]
            text = "".join(one.text for one in mine)
            likely = tuple(pair for one in mine for pair in one.likely)
            content = {"message": {"role": "assistant", "content": text}} if self._asked.chat else {"text": text}
            choices.append(self._choice(index, content, likely, mine[-1].answer))
        kind = "chat.completion" if self._asked.chat else "text_completion"
        answers = [one.answer for one in said if one.answer is not None]
        return self._body(kind, choices) | {"usage": self.usage(answers)}

    def piece(self, said: Said) -> dict[str, Any]:
        """One event of a stream."""
        if self._asked.chat:
            role = {} if said.index in self._begun else {"role": "assistant"}
            self._begun.add(said.index)
            content: dict[str, Any] = {"delta": role | ({"content": said.text} if said.text or role else {})}
        else:
            content = {"text": said.text}
        usage = {"usage": None} if self._asked.stream_usage else {}
        return self._body(self._kind, [self._choice(said.index, content, said.likely, said.answer)]) | usage

    def last(self, answers: list[Answer]) -> dict[str, Any]:
        """The event with the counts, which comes last where it was asked for."""
        return self._body(self._kind, []) | {"usage": self.usage(answers)}

    def usage(self, answers: list[Answer]) -> dict[str, int]:
        """Tokens of prompts, each counted once for all its choices, and of answers."""
        prompts = sum(answer.num_prompt_tokens for answer in answers) // self._asked.num_choices
        tokens = sum(answer.num_tokens for answer in answers)
        return {"prompt_tokens": prompts, "completion_tokens": tokens, "total_tokens": prompts + tokens}

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self._asked.chat else "text_completion"

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id, "object": kind, "created": self._created, "model": self._asked.model, "choices": choices,
        }  # fmt: skip

    def _choice(
        self, index: int, content: dict[str, Any], likely: tuple[tuple[int, Likely], ...], answer: Answer | None
    ) -> dict[str, Any]:
        reason = None if answer is None else REASONS[answer.ended]
        logprobs = self._logprobs(index, likely) if self._asked.num_likely is not None else None
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, index: int, likely: tuple[tuple[int, Likely], ...]) -> dict[str, Any]:
        if self._asked.chat:
            return {"content": [self._token(token, one) for token, one in likely], "refusal": None}
        words = [self._text(token) for token, _ in likely]
        offsets = []
        for word in words:
            offsets.append(self._num_chars.get(index, 0))
            self._num_chars[index] = offsets[-1] + len(word)
        return {
            "tokens": words,
            "token_logprobs": [one.logprob for _, one in likely],
            "top_logprobs": [{self._text(token): value for token, value in one.top} for _, one in likely],
            "text_offset": offsets,
        }

    def _token(self, token: int, one: Likely) -> dict[str, Any]:
        top = [self._named(other, value) for other, value in one.top]
        return self._named(token, one.logprob) | {"top_logprobs": top}

    def _named(self, token: int, logprob: float) -> dict[str, Any]:
        text = self._text(token)
        # Bytes that are no character by themselves are not told.
        whole = "\N{REPLACEMENT CHARACTER}" not in text
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if whole else None}

    def _text(self, token: int) -> str:
        return self._tokenizer.decode([token], skip_special=False)
