"""The loops of the kinds of work, as generators without a device: they yield what to replay and are sent the result."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Replay:
    """One replay of a stage: `tokens` at positions from `position` on; `last` says that the next token is wanted."""

    stage: str
    tokens: tuple[int, ...]
    position: int
    last: bool


def decode(
    tokens: tuple[int, ...], position: int, context: int, chunk: int, max_tokens: int, end: frozenset[int]
) -> Generator[Replay, int, str]:
    """Read a prompt in chunks, then one token after another. Sent the token that each replay drew (any, for chunks).

    Returns why it ended: "end", "length" or "context". `position` tokens are in the cache already, and at least one
    position is left after the prompt.
    """
    stop = position + len(tokens)
    drawn = 0
    for first in range(0, len(tokens), chunk):
        part = tokens[first : first + chunk]
        drawn = yield Replay("prefill", part, position + first, first + chunk >= len(tokens))
    for made in range(1, max_tokens + 1):
        if drawn in end:
            return "end"
        if made == max_tokens:
            return "length"
        if stop >= context:
            return "context"
        drawn = yield Replay("decode", (drawn,), stop, True)
        stop += 1
    return "length"
