"""Ids to text as they come: whole characters only, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pintpot.errors import UsageError, need
from pintpot.model.tokens.tokenizer import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MAX_HELD = 16
"""Ids held back for a character to become whole; a character has four bytes, so more is not text at all."""


class TextStream:
    """Turns ids into printable pieces: their concatenation is the decoded text.

    A character written over several ids is held back until it is whole, special tokens are skipped. `context`: the ids
    before the first one, for text that goes on where they end: without them the space before a first SentencePiece word
    is dropped, as it should be for an answer and not for a continuation.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._start([index for index in context if index not in tokenizer.special_ids])

    def push(self, token: int) -> str:
        """The text that this id completes; empty while a character is still missing bytes."""
        if token in self._tokenizer.special_ids:
            return ""
        self._held.append(token)
        text = self._tokenizer.decode(self._before + self._held)
        if text.endswith(_REPLACEMENT) and len(self._held) < _MAX_HELD:
            return ""
        piece = text[self._num_shown :]
        self._start(self._held)
        return piece

    def finish(self) -> str:
        """What was held back, as U+FFFD where it is no character; the stream starts anew."""
        piece = self._tokenizer.decode(self._before + self._held)[self._num_shown :]
        self._start([])
        return piece

    def _start(self, ids: list[int]) -> None:
        """Go on after `ids`, of which as many are kept as it takes to decode the next one as in their company."""
        self._held: list[int] = []
        for size in range(1, min(len(ids), _MAX_HELD) + 1):
            text = self._tokenizer.decode(ids[-size:])
            # A piece cut within a character would spoil the bytes that follow it.
            if text.strip(_REPLACEMENT) == text != "":
                break
        else:
            size = min(len(ids), _MAX_HELD)
        self._before = ids[len(ids) - size :]
        self._num_shown = len(self._tokenizer.decode(self._before))


class StopMatcher:
    """Cuts a text that comes in pieces before the first stop string, whatever the pieces.

    Of several stop strings the one that is complete first decides; of two complete at the same place, the longer.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(dict.fromkeys(stops))
        need(all(self._stops), "a stop string is empty", UsageError)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """What may be shown now. Once a stop string was found `stopped` is true and everything further is dropped."""
        if self.stopped:
            return ""
        self._held += text
        found = [(place + len(stop), place) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._show(min(found)[1], 0)
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        return self._show(len(self._held) - keep, keep)

    def finish(self) -> str:
        """The part of a stop string that was held back and never became whole."""
        piece, self._held = self._held, ""
        return piece

    def _show(self, end: int, keep: int) -> str:
        piece, self._held = self._held[:end], self._held[end : end + keep]
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper beginning of `stop` with which `text` ends."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
