"""What a proof asks of its processes: the texts, where states of them lie, and how often to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Texts = list[list[int]]
ANSWER_SECONDS: Final = 30.0
SEEN: Final = "cosine of what a picture becomes"


@dataclass
class Answers:
    """The texts, and where the pack's states of them are: of all words as a prompt, and of `num_words` at the end.

    Words of answers are decoded for `seconds`, half of each text at most.
    """

    texts: Texts
    folder: Path
    seconds: float = ANSWER_SECONDS
    num_words: int = 0

    @property
    def seen(self) -> str:
        """What a picture became, of a model that sees."""
        return str(self.folder / "seen.npz")

    @property
    def prompts(self) -> dict[str, Any]:
        return {"texts": self.texts, "path": str(self.folder / "prompts.npy")}

    @property
    def words(self) -> dict[str, Any]:
        return {"texts": self.texts, "path": str(self.folder / "words.npy"), "num_words": self.num_words}


@dataclass(frozen=True, slots=True)
class Asked:
    """How often to measure, and whether each op is timed."""

    runs: int
    profile: bool
