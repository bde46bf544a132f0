"""From what a body asks for to requests that an engine takes: tokens, one request for each choice, guides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pintpot.errors import need
from pintpot.model.tokens import encode_chat
from pintpot.runtime.request import Guide, Request
from pintpot.runtime.session import Session
from pintpot.server.schema import Invalid
from pintpot.server.wire import Asked, Prompt

Guiding = Callable[[dict[str, object]], Guide]
"""Makes a guide of a JSON schema. Raises Invalid for one that cannot be followed."""


def num_words(session: Session) -> int:
    """Tokens that the model knows."""
    return int(session.plan.config["vocab_size"])


def requests_of(
    asked: Asked, session: Session, check: Callable[[Request], None], guiding: Guiding | None
) -> list[Request]:
    """The requests for all choices of all prompts, each prompt `check`ed. Raises Invalid, and what `check` raises."""
    words, found = num_words(session), list[Request]()
    strange = [token for token, _ in asked.bias if token >= words]
    if strange:
        raise Invalid(f"logit_bias is for token {strange[0]}, and there are {words}", "logit_bias")
    for prompt in asked.prompts:
        tokens = _tokens(prompt, session)
        room = session.engine.context - len(tokens)
        first = Request(
            tokens,
            max(1, room if asked.max_tokens is None else min(asked.max_tokens, room)),
            asked.sampling,
            asked.stop,
            bias=asked.bias,
            num_likely=asked.num_likely,
        )
        check(first)
        for choice in range(asked.num_choices):
            found.append(replace(first, sampling=asked.sampling_of(choice), guide=_guide(asked, guiding)))
    return found


def _tokens(prompt: Prompt, session: Session) -> tuple[int, ...]:
    if isinstance(prompt, str):
        tokens = session.tokenizer.encode(prompt)
        need(bool(tokens), "the prompt is empty", Invalid)
        return tuple(tokens)
    if isinstance(prompt[0], dict):
        return tuple(encode_chat(session.tokenizer, [one for one in prompt if isinstance(one, dict)]))
    ids, words = tuple(one for one in prompt if isinstance(one, int)), num_words(session)
    need(max(ids) < words, f"token {max(ids)} is not one of {words}", Invalid)
    return ids


def _guide(asked: Asked, guiding: Guiding | None) -> Guide | None:
    if asked.grammar is None:
        return None
    if guiding is None:
        raise Invalid("answers in JSON are not offered here: pip install pintpot[serve]", "response_format")
    return guiding(asked.grammar)
