"""llama.cpp's logits, to be compared with float32: runs in the peers' environment, as a process of its own.

    python benchmarks/peers/logits.py MODEL TEXTS.json WORDS FOLDER

TEXTS is a list of lists of tokens. FOLDER gets for each text N.npy: logits float32 [tokens, vocabulary] of the last
WORDS tokens, decoded one by one after the rest as their prompt; of all tokens, read as a prompt, where WORDS is 0.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from contenders.llama_cpp import Llama, Row

CONTEXT = 512


class Teller(Llama):
    """A model that is told what comes next, and gives the logits."""

    def logits(self, tokens: list[int], num_words: int) -> np.ndarray:
        """Float32 [tokens, vocabulary]; see above."""
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        first = len(tokens) - num_words
        rows = [Row(token, at, 0, not num_words or at >= first) for at, token in enumerate(tokens)]
        replays = [rows[:first], *([row] for row in rows[first:])]
        return np.concatenate([self._told(replay) for replay in replays if replay])

    def _told(self, rows: list[Row]) -> np.ndarray:
        width = self._lib.llama_vocab_n_tokens(self._vocabulary)
        self._run(rows)
        found = [self._lib.llama_get_logits_ith(self._context, at) for at, row in enumerate(rows) if row.last]
        copies = [np.ctypeslib.as_array(one, (width,)).copy() for one in found]
        return np.array(copies, np.float32).reshape(-1, width)


def main(model: str, texts: str, num_words: str, folder: str) -> None:
    """Write the logits of all texts."""
    peer = Teller(model, CONTEXT, "f16", threads=2, repack=True, flash=True)
    for number, tokens in enumerate(json.loads(Path(texts).read_text())):
        np.save(Path(folder) / f"{number}.npy", peer.logits(tokens, int(num_words)))


if __name__ == "__main__":
    main(*sys.argv[1:])
