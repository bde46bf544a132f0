"""Pictures in a conversation: where a chat template puts them, and the tokens that stand there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pintpot.errors import BadInput, UsageError, need
from pintpot.model.tokens import Message, Tokenizer, encode_chat
from pintpot.runtime.pictures import Picture
from pintpot.runtime.sights import About, special_texts


def shown(text: str, num_pictures: int) -> Message:
    """One more turn with pictures before its words."""
    if not num_pictures:
        return {"role": "user", "content": text}
    return {"role": "user", "content": [*[{"type": "image"}] * num_pictures, {"type": "text", "text": text}]}


def prompt_with(
    tokenizer: Tokenizer, messages: Sequence[Message], pictures: Sequence[Picture], about: About
) -> tuple[int, ...]:
    """The tokens of a conversation with pictures, in their order.

    A template that knows no images gets the word that stands for one before the text. Raises BadInput where neither
    gives every picture a place.
    """
    word = int(about["word"])
    ids = _encoded(tokenizer, messages, word, len(pictures))
    if ids is None:
        name = tokenizer.decode([word], skip_special=False)
        ids = _encoded(tokenizer, [_plain(message, name) for message in messages], word, len(pictures))
    if ids is None:
        raise BadInput(f"the chat template has no place for {len(pictures)} images")
    before, after = (tokenizer.encode(part, add_special=False) if part else [] for part in special_texts(about))
    found: list[int] = []
    left = iter(pictures)
    for token in ids:
        found += [*before, *next(left).tokens, *after] if token == word else [token]
    return tuple(found)


def check_room(pictures: Sequence[Picture], num_rows: int) -> None:
    """Raise UsageError for more pictures than a plan has room for."""
    wanted = sum(picture.num_rows for picture in pictures)
    why = f"{len(pictures)} images in this conversation take {wanted} positions, the plan has room for {num_rows}"
    need(wanted <= num_rows, f"{why}; plan with a larger --images", UsageError)


def _encoded(tokenizer: Tokenizer, messages: Sequence[Message], word: int, count: int) -> list[int] | None:
    try:
        ids = encode_chat(tokenizer, messages)
    except BadInput:
        return None
    return ids if ids.count(word) == count else None


def _plain(message: Mapping[str, Any], word: str) -> Message:
    """A message as one text."""
    content = message["content"]
    if isinstance(content, str):
        return message
    parts = [word if part["type"] == "image" else part["text"] for part in content]
    return {**message, "content": "".join(parts)}
