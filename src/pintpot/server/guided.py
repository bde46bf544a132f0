"""Answers that follow a JSON schema: llguidance says before each token which may come, and sampling obeys."""

from __future__ import annotations

import json
from array import array
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pintpot.model.tokens import Tokenizer
from pintpot.runtime.request import Guide
from pintpot.runtime.session import Session
from pintpot.server.asking import Guiding, num_words
from pintpot.server.schema import Invalid

if TYPE_CHECKING:
    from llguidance import LLMatcher

MOST_CHARS = 1 << 16
"""Of a schema."""


class Grammar:
    """One answer's way through a grammar. Where the grammar gives up nothing but the end may come."""

    def __init__(self, matcher: LLMatcher, num_words: int, end: tuple[int, ...]) -> None:
        self._matcher, self._num_words, self._end = matcher, num_words, end

    def allowed(self) -> memoryview[int]:
        """A bit for each token, in words of 32 bits."""
        size = 4 * -(-self._num_words // 32)
        found = b"" if self._matcher.is_error() else self._matcher.compute_bitmask()
        mask = array("i", found[:size].ljust(size, b"\0"))
        if self._matcher.is_error() or not any(mask):
            for token in self._end:
                mask[token // 32] |= -(1 << 31) if token % 32 == 31 else 1 << token % 32
        return memoryview(mask)

    def took(self, token: int) -> bool:
        """The answer goes on with this token. Returns whether nothing may follow it."""
        return not self._matcher.consume_token(token) or self._matcher.is_stopped()


def guiding_of(session: Session) -> Guiding | None:
    """What makes guides for an open pack; None for want of the extra or of words that it reads."""
    if find_spec("llguidance") is None:
        return None
    try:
        return make_guiding(session.tokenizer, num_words(session))
    except Invalid:
        return None


def make_guiding(tokenizer: Tokenizer, words_known: int) -> Guiding:
    """What makes guides of JSON schemas, for a model of so many tokens.

    Raises Invalid for a tokenizer whose words llguidance cannot read.
    """
    from llguidance import LLMatcher, LLTokenizer

    try:
        words = LLTokenizer(tokenizer.definition(), n_vocab=words_known, eos_token=list(tokenizer.eos_ids), slices=[])
    except ValueError as error:
        raise Invalid(f"answers in JSON are not possible with this model's words: {error}") from error

    def guide(schema: dict[str, object]) -> Guide:
        text = json.dumps(schema)
        if len(text) > MOST_CHARS:
            raise Invalid(f"the JSON schema has more than {MOST_CHARS} characters", "response_format")
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
        except ValueError as error:
            raise Invalid(f"the JSON schema cannot be followed: {error}", "response_format") from error
        matcher = LLMatcher(words, grammar, log_level=0)
        if matcher.is_error():
            raise Invalid(f"the JSON schema cannot be followed: {matcher.get_error()}", "response_format")
        return Grammar(matcher, words_known, tokenizer.eos_ids)

    return guide
