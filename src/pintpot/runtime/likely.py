"""How likely tokens were: log probabilities from the logits that a replay has left, for those who asked."""

from __future__ import annotations

from pintpot.kernels.native.bind import Replay
from pintpot.runtime.scheduler import Likely, Part


def likely_of(bound: Replay, parts: tuple[Part, ...], tokens: list[int]) -> list[Likely | None]:
    """Of each token drawn, in order; empty where nobody asked."""
    if all(part.answer.request.num_likely is None for part in parts):
        return []
    logits, found = bound.floats("logits"), list[Likely | None]()
    for part in parts:
        asked = part.answer.request.num_likely
        for _ in range(part.num_rows):
            row = len(found)
            found.append(None if asked is None else likely(logits[row], tokens[row], asked))
    return found


def likely(logits: object, token: int, number: int) -> Likely:
    """Of a token, from logits [V] before penalty, temperature and cuts, and of the `number` likeliest."""
    import numpy as np

    values = np.asarray(logits, np.float64)
    values = values - values.max()
    values -= np.log(np.exp(values).sum())
    top = np.argpartition(-values, min(number, len(values) - 1))[:number] if number else np.empty(0, np.int64)
    top = top[np.lexsort((top, -values[top]))]
    return Likely(float(values[token]), tuple((int(one), float(values[one])) for one in top))
