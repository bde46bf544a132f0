"""Pintpot over a pack of the very same weights: nothing rounded, nothing left out of the cache."""

from __future__ import annotations

import time
from typing import Any

from contenders import Config, timed

_BY_DEFAULT, _ONE_PLANE = {"planes": (1, 2)}, {"planes": (1, 1)}
"""Of int8 rows, in prefill and in decode."""

CONFIGS = (
    Config("pintpot", "Pintpot", "by default", knobs=_BY_DEFAULT, stands_for=("decode", "prefill")),
    Config("pintpot", "Pintpot", "one plane", knobs=_ONE_PLANE),
    Config("pintpot", "Pintpot", "the same weights", task="streaming 4 bits", knobs={"chosen": False}),
    Config("pintpot", "Pintpot", "the same weights", task="streaming bf16", knobs={"chosen": False}),
    Config("pintpot", "Pintpot", "as planned", task="streaming bf16", knobs={"chosen": True}),
    Config("pintpot", "Pintpot", "a pack", task="start"),
    Config("pintpot", "Pintpot", "as planned", task="batches", knobs={"planes": None}, stands_for=("load", "decode")),
    Config("pintpot", "Pintpot", "two planes in decode", task="batches", knobs=_BY_DEFAULT),
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

    def answers(self, prompts: list[list[int]], number: int) -> dict[str, Any]:
        """See `contenders.Peer`."""
        engine = self._session.engine
        engine.reset()
        started = time.perf_counter()
        asked = [self._request(tuple(tokens), number, self._greedy, (), ignore_end=True) for tokens in prompts]
        streams = [self._stream(self._session.tokenizer, tokens) for tokens in prompts]
        pieces: list[list[str]] = [[] for _ in prompts]
        words = []
        for drawn in engine.generate_many(asked, frozenset()):
            pieces[drawn.index].append(streams[drawn.index].push(drawn.token))
            words.append((time.perf_counter(), drawn.index))
        for stream, text in zip(streams, pieces, strict=True):
            text.append(stream.finish())
        found = timed(started, words, time.perf_counter())
        return found | {"texts": ["".join(text) for text in pieces]}


def open_peer(model: str) -> Open:
    """Open a pack; see `Open`."""
    return Open(model)
