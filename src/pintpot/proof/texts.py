"""The texts of a proof: consecutive pieces of one file as the pack's tokenizer cuts them, in their own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pintpot.meter.memory import peak_bytes
from pintpot.model.tokens import Tokenizer, from_folder

MOST_CHARACTERS_PER_TOKEN = 16
"""Of a longer text only so much is looked at for every token that is wanted."""


class Answerer:
    """Request `cut`."""

    def __init__(self, pack: Path) -> None:
        self._tokenizer = Tokenizer.load(from_folder(pack))

    def cut(self, words: str, length: int, most: int) -> dict[str, Any]:
        """At most so many texts of `length` tokens; what is left at the end is dropped."""
        enough = words[: MOST_CHARACTERS_PER_TOKEN * length * most]
        tokens = self._tokenizer.encode(enough, add_special=False)
        whole = range(0, len(tokens) - length + 1, length)
        texts = [tokens[first : first + length] for first in whole][:most]
        return {"texts": texts, "num_tokens": len(tokens), "peak_bytes": peak_bytes()}
