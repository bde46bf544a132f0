"""The text that weights are calibrated on, cut into sequences of tokens."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from pintpot.errors import BadInput, UsageError, need
from pintpot.model.tokens import Tokenizer, TokenizerSource
from pintpot.planner.calibrating import LENGTH, TOKENS
from pintpot.units import format_bytes

Texts = list[list[int]]
MOST_BYTES = 64_000_000
"""A tokenizer takes a text whole, and many times its memory."""


def read_text(path: Path | None = None) -> str:
    """A file's text, or the one that comes with the package. Raises BadInput for what is no text."""
    if path is None:
        return files("pintpot.packer.calibrate").joinpath("text.txt").read_text(encoding="utf-8")
    try:
        size = path.stat().st_size
        need(size <= MOST_BYTES, f"{path} has {format_bytes(size)}; a part of {format_bytes(MOST_BYTES)} is plenty")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text: {error}") from error


def cut(source: TokenizerSource, words: str, context: int, tokens: int = TOKENS, length: int = LENGTH) -> Texts:
    """Sequences of `length` tokens (fewer where the model's context is shorter), `tokens` together at most.

    Where the text has more, sequences are taken evenly from all of it. Raises UsageError for one that gives none.
    """
    found = Tokenizer.load(source).encode(words, add_special=False)
    length = min(length, context)
    whole = [found[first : first + length] for first in range(0, len(found) - length + 1, length)]
    need(bool(whole), f"a text of {len(found)} tokens is too short to calibrate on: give {length} or more", UsageError)
    wanted = min(len(whole), max(1, tokens // length))
    return [whole[index * len(whole) // wanted] for index in range(wanted)]
