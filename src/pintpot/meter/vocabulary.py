"""Agreement of two models over a vocabulary that is never in memory whole: logits come some columns at a time.

One pass suffices for the divergence: with r and t the two rows of logits, KL = sum p (r - t) - log Zr + log Zt, and
the three sums are kept relative to running maxima, as in an online softmax.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.meter.agreement import TokenScores

Floats = NDArray[np.float64]


class VocabularyStream:
    """Scores of T tokens. Feed `add` every range of the vocabulary once, in any order, then take `scores`."""

    def __init__(self, num_tokens: int, targets: NDArray[np.integer] | None = None) -> None:
        self._targets = targets
        self._peak = [np.full(num_tokens, -np.inf) for _ in range(2)]
        self._mass = [np.zeros(num_tokens) for _ in range(2)]
        self._tilt = np.zeros(num_tokens)
        self._best = [np.full(num_tokens, -1) for _ in range(2)]
        self._aim = [np.full(num_tokens, np.nan) for _ in range(2)]

    def add(self, first: int, reference: NDArray[np.floating], test: NDArray[np.floating]) -> None:
        """Logits [T, n] of both models for words [first, first + n)."""
        r, t = reference.astype(np.float64), test.astype(np.float64)
        need(r.shape == t.shape and len(r) == len(self._tilt), "logits of other shapes than the tokens compared")
        old = self._peak[0].copy()
        for side, values in enumerate((r, t)):
            self._take(side, first, values)
        shrink = np.exp(old - self._peak[0])
        weights = np.exp(r - self._peak[0][:, None])
        self._tilt = self._tilt * np.where(np.isfinite(old), shrink, 0.0) + np.sum(weights * (r - t), axis=1)

    def scores(self) -> TokenScores:
        """Per token: divergence in nats, agreement of the likeliest word, and the cost of the true one."""
        log_z = [peak + np.log(mass) for peak, mass in zip(self._peak, self._mass, strict=True)]
        kl = np.maximum(self._tilt / self._mass[0] - log_z[0] + log_z[1], 0.0)
        nll = [z - aim for z, aim in zip(log_z, self._aim, strict=True)]
        empty = np.zeros(0)
        known = self._targets is not None
        return TokenScores(kl, self._best[0] == self._best[1], nll[0] if known else empty, nll[1] if known else empty)

    def _take(self, side: int, first: int, values: Floats) -> None:
        best = values.argmax(axis=1)
        peak = np.take_along_axis(values, best[:, None], axis=1)[:, 0]
        higher = peak > self._peak[side]
        self._best[side] = np.where(higher, first + best, self._best[side])
        new = np.maximum(peak, self._peak[side])
        old = np.where(np.isfinite(self._peak[side]), np.exp(self._peak[side] - new), 0.0)
        self._mass[side] = self._mass[side] * old + np.exp(values - new[:, None]).sum(axis=1)
        self._peak[side] = new
        if self._targets is not None:
            here = (self._targets >= first) & (self._targets < first + values.shape[1])
            self._aim[side][here] = values[here, self._targets[here] - first]
