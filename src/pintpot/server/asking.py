"""From what a body asks for to requests that an engine takes: tokens, one request for each choice, guides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pintpot.errors import Busy, need
from pintpot.model.tokens import encode_chat
from pintpot.runtime.pictures import Picture
from pintpot.runtime.request import Guide, Request
from pintpot.runtime.session import Session
from pintpot.runtime.showing import prompt_with
from pintpot.server.schema import Invalid
from pintpot.server.wire import Asked, Prompt

PICTURES_BYTES = 48_000_000
"""Of pictures that wait to be seen, as their model takes them; reading one may take as much again (`SEEING_BYTES`)."""
SEEING_BYTES = 2 * PICTURES_BYTES
"""What a server takes besides where it is shown pictures."""
Guiding = Callable[[dict[str, object]], Guide]
"""Makes a guide of a JSON schema. Raises Invalid for one that cannot be followed."""


def seeing_bytes(pictures: int | None) -> int:
    """What a server takes besides where a prompt may have so many pictures."""
    return SEEING_BYTES if pictures else 0


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
    pictures = _pictures(asked, session)
    for prompt in asked.prompts:
        tokens = _tokens(prompt, session, pictures)
        room = session.engine.context - len(tokens)
        first = Request(
            tokens,
            max(1, room if asked.max_tokens is None else min(asked.max_tokens, room)),
            asked.sampling,
            asked.stop,
            bias=asked.bias,
            num_likely=asked.num_likely,
            pictures=pictures,
        )
        check(first)
        for choice in range(asked.num_choices):
            found.append(replace(first, sampling=asked.sampling_of(choice), guide=_guide(asked, guiding)))
    return found


def _pictures(asked: Asked, session: Session) -> tuple[Picture, ...]:
    """Raises Invalid where nobody sees, BadInput for what is no picture, Busy while too many are held."""
    if not asked.images:
        return ()
    if session.eyes is None:
        raise Invalid("this model was packed for words alone; serve one that sees with --images", "messages")
    found = list[Picture]()
    for image in asked.images:
        room = session.eyes.held_bytes < PICTURES_BYTES
        need(room, "too many images are being looked at; try again later", Busy)
        found.append(session.eyes.read(image))
    return tuple(found)


def _tokens(prompt: Prompt, session: Session, pictures: tuple[Picture, ...]) -> tuple[int, ...]:
    if isinstance(prompt, str):
        tokens = session.tokenizer.encode(prompt)
        need(bool(tokens), "the prompt is empty", Invalid)
        return tuple(tokens)
    if isinstance(prompt[0], dict):
        messages = [one for one in prompt if isinstance(one, dict)]
        if pictures and session.eyes is not None:
            return prompt_with(session.tokenizer, messages, pictures, session.eyes.about)
        return tuple(encode_chat(session.tokenizer, messages))
    ids, words = tuple(one for one in prompt if isinstance(one, int)), num_words(session)
    need(max(ids) < words, f"token {max(ids)} is not one of {words}", Invalid)
    return ids


def _guide(asked: Asked, guiding: Guiding | None) -> Guide | None:
    if asked.grammar is None:
        return None
    if guiding is None:
        raise Invalid("answers in JSON are not offered here: pip install pintpot[serve]", "response_format")
    return guiding(asked.grammar)
