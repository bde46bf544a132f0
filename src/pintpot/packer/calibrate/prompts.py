"""Prompts that weights are calibrated on: texts as tokens, and rows of embedding where pictures stand among words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, need
from pintpot.kernels.reference import Memory
from pintpot.nets._decoder import GIVEN
from pintpot.packer.calibrate.forward import TOKENS, TURNS

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]
_ROWS = "rows."


@dataclass(frozen=True, eq=False)
class Prompts:
    """Token ids of each text. A token ~r is row r of a picture's.

    `rows` has those of all pictures by the buffer that takes them: `given` [R, D], more for deeper layers,
    `given_angles` where positions have several directions. `turns` [T] says of each text which position, or ~r which
    row's angles, its tokens turn by. Both are empty where there are words alone.
    """

    texts: tuple[Numbers, ...]
    turns: tuple[Numbers, ...] = ()
    rows: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]] | Prompts) -> Prompts:
        """Texts of words alone, unless they are prompts already."""
        return texts if isinstance(texts, Prompts) else cls(tuple(np.asarray(text, np.int64) for text in texts))

    @property
    def pictured(self) -> bool:
        """Whether any has a picture."""
        return bool(self.rows)

    @property
    def lengths(self) -> list[int]:
        return [len(text) for text in self.texts]

    @property
    def given(self) -> Floats | None:
        """Rows that take the place of words [R, D]; None where there are no pictures."""
        return self.rows.get(GIVEN)

    def of_pictures(self, text: int) -> NDArray[np.bool_]:
        """Which tokens of a text are rows of pictures [T]."""
        return np.asarray(self.texts[text] < 0)

    def memory(self, text: int) -> Memory:
        """What ops of a text find in memory beside weights and states."""
        if not self.pictured:
            return {}
        return {TOKENS: self.texts[text], TURNS: self.turns[text], **self.rows}

    def beside(self, texts: Sequence[Sequence[int]]) -> Prompts:
        """These, and texts of words alone behind them."""
        more = Prompts.of(texts).texts
        turns = tuple(np.arange(len(text)) for text in more)
        return Prompts(self.texts + more, self.turns + turns, self.rows)

    def beside_some(self, texts: Sequence[Sequence[int]]) -> Prompts:
        """The same with so many of the texts, evenly from all of them, that all together are as many tokens as they."""
        left = sum(map(len, texts)) - sum(self.lengths)
        count = min(len(texts), max(1, left // max(map(len, texts))))
        return self.beside([texts[index * len(texts) // count] for index in range(count)])

    def digest(self) -> str:
        """Tells apart prompts of other tokens or other rows."""
        numbers = [[one.tolist() for one in part] for part in (self.texts, self.turns)]
        found = hashlib.sha256(json.dumps(numbers).encode())
        for name in sorted(self.rows):
            found.update(name.encode())
            found.update(np.ascontiguousarray(self.rows[name], np.float32).data)
        return found.hexdigest()

    def save(self, path: Path) -> None:
        """Write them to a file. Raises OSError."""
        texts = {f"texts.{text}": tokens for text, tokens in enumerate(self.texts)}
        turns = {f"turns.{text}": tokens for text, tokens in enumerate(self.turns)}
        rows = {_ROWS + name: part for name, part in self.rows.items()}
        np.savez(path, allow_pickle=False, **texts, **turns, **rows)

    @classmethod
    def load(cls, path: Path) -> Prompts:
        """What `save` wrote. Raises BadInput for anything else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except (OSError, ValueError) as error:
            raise BadInput(f"{path} holds no prompts: {error}") from error
        count = sum(name.startswith("texts.") for name in found)
        parts = [[found.get(f"{what}.{text}") for text in range(count)] for what in ("texts", "turns")]
        rows = {name.removeprefix(_ROWS): part for name, part in found.items() if name.startswith(_ROWS)}
        lengths = [[None if one is None else one.shape for one in part] for part in parts]
        need(count > 0 and lengths[0] == lengths[1] and GIVEN in rows, f"{path} holds no prompts with pictures")
        texts, turns = (tuple(np.asarray(one, np.int64) for one in part) for part in parts)
        return cls(texts, turns, rows)
