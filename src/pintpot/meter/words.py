"""METER: how far two transcripts agree, and two decoders while they hear the same words. Pure functions."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pintpot.errors import need

Floats = NDArray[np.float64]


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation, as transcripts are compared."""
    return re.findall(r"[\w']+", text.lower())


def word_errors(reference: str, test: str) -> tuple[int, int]:
    """The fewest words to put in, leave out or change that make one transcript of the other, and the reference's words.

    Their ratio is the word error rate (Levenshtein 1966, over words).
    """
    wanted, found = words_of(reference), words_of(test)
    row = list(range(len(found) + 1))
    for at, word in enumerate(wanted, 1):
        before, row[0] = row[0], at
        for other_at, other in enumerate(found, 1):
            changed = before + (word != other)
            before = row[other_at]
            row[other_at] = min(changed, row[other_at] + 1, row[other_at - 1] + 1)
    return row[-1], len(wanted)


def divergence(reference: ArrayLike, test: ArrayLike) -> Floats:
    """KL divergence in nats of each row of logits [n, words] from the same row of the reference.

    Row by row, for a hundred rows of a vocabulary in float64 are more than a budget may have room for.
    """
    a, b = np.asarray(reference), np.asarray(test)
    need(a.shape == b.shape and a.ndim == 2, f"logits of one shape are compared, not {a.shape} and {b.shape}")
    return np.array([_divergence(*rows) for rows in zip(a, b, strict=True)], np.float64)


def _divergence(reference: NDArray[np.floating], test: NDArray[np.floating]) -> float:
    rows = np.stack([reference, test]).astype(np.float64)
    one, other = rows - _log_sum(rows)
    return float((np.exp(one) * (one - other)).sum())


def same_so_far(reference: ArrayLike, test: ArrayLike) -> int:
    """How many words decoders have in common before one of them writes another."""
    a, b = np.asarray(reference).ravel(), np.asarray(test).ravel()
    shorter = min(len(a), len(b))
    apart = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(apart[0]) if len(apart) else shorter


def _log_sum(rows: Floats) -> Floats:
    most = rows.max(axis=1, keepdims=True)
    return np.asarray(most + np.log(np.exp(rows - most).sum(axis=1, keepdims=True)))
