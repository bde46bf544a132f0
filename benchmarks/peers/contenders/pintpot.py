"""Pintpot over a pack of the very same weights: nothing rounded, nothing left out of the cache."""

from __future__ import annotations

import time
from typing import Any

from contenders import Config

CONFIGS = (
    Config("pintpot", "Pintpot", "two planes", knobs={"planes": 2}, stands_for=("decode",)),
    Config("pintpot", "Pintpot", "one plane", knobs={"planes": 1}, stands_for=("prefill",)),
    Config("pintpot", "Pintpot", "the same weights", task="streaming 4 bits", knobs={"chosen": False}),
    Config("pintpot", "Pintpot", "the same weights", task="streaming bf16", knobs={"chosen": False}),
    Config("pintpot", "Pintpot", "as planned", task="streaming bf16", knobs={"chosen": True}),
    Config("pintpot", "Pintpot", "a pack", task="start"),
)


class Open:
    """An open pack."""

    def __init__(self, model: str) -> None:
        import pintpot
        from pintpot import api
        from pintpot.model.tokens import TextStream
        from pintpot.runtime.request import Request, Sampling

        self._session = api.run(model)
        self._stream, self._request, self._greedy = TextStream, Request, Sampling(temperature=0.0)
        self.versions = {"pintpot": pintpot.__version__}

    def answer(self, tokens: list[int], number: int) -> dict[str, Any]:
        """See `contenders.Peer`."""
        engine = self._session.engine
        engine.reset()
        started = time.perf_counter()
        request = self._request(tuple(tokens), number, self._greedy, (), ignore_end=True)
        stream, pieces, first_at, count = self._stream(self._session.tokenizer, tokens), [], 0.0, 0
        for token in engine.generate(request, frozenset()):
            pieces.append(stream.push(token))
            count += 1
            if count == 1:
                first_at = time.perf_counter()
        pieces.append(stream.finish())
        ended = time.perf_counter()
        return {
            "number": count, "first_number": 1, "first_s": first_at - started, "rest_s": ended - first_at,
            "text": "".join(pieces),
        }  # fmt: skip


def open_peer(model: str) -> Open:
    """Open a pack; see `Open`."""
    return Open(model)
