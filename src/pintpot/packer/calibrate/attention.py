"""Causal attention of one whole text in float32, by matrix products over a few rows at a time.

It computes what `kernels.reference.attend` defines, without a cache: the keys and values of a text lie side by side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pintpot.program.spec import Op

Floats = NDArray[np.float32]
ROWS = 128
"""Query rows at a time: their scores of all heads stay in a core's cache for texts of some hundred words."""


def causal(op: Op, q: Floats, k: Floats, v: Floats) -> Floats:
    """What rotated queries [T, heads, hd] find in the keys and values [T, KV, hd] of their own text: [T, heads, hd]."""
    num_rows, heads, head_dim = q.shape
    num_kv = k.shape[1]
    keys = np.ascontiguousarray(k.transpose(1, 2, 0))
    values = np.ascontiguousarray(v.transpose(1, 0, 2))
    out = np.empty_like(q)
    for first in range(0, num_rows, ROWS):
        stop = min(first + ROWS, num_rows)
        rows = np.ascontiguousarray(q[first:stop].transpose(1, 0, 2)).reshape(num_kv, -1, head_dim)
        scores = rows @ keys[:, :, :stop]
        scores *= np.float32(op.get("scale"))
        by_head = scores.reshape(heads, stop - first, stop)
        by_head += hidden(first, stop, op.get("window", 0), op.get("sinks", 0))
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        found = scores @ values[:, :stop]
        found /= scores.sum(axis=-1, keepdims=True)
        out[first:stop] = found.reshape(heads, stop - first, head_dim).transpose(1, 0, 2)
    return out


def hidden(first: int, stop: int, window: int, sinks: int) -> Floats:
    """0 where a query row of [first, stop) sees a position of [0, stop), minus infinity elsewhere."""
    position, seen = np.arange(first, stop)[:, None], np.arange(stop)
    visible = seen <= position
    if window:
        visible &= (seen > position - window) | (seen < sinks)
    return np.where(visible, np.float32(0), np.float32(-np.inf))
