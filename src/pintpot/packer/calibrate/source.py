"""Weights of a described model in float32: whole, or in runs of rows where they are never in memory at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.source import decode
from pintpot.model.spec import Model, Weight
from pintpot.model.store import Store

Floats = NDArray[np.float32]
ROW_CHUNK_BYTES = 2 << 20


@dataclass(frozen=True)
class RowSource:
    """A weight read from its file in runs of rows, decoded to float32; iterating gives (first row, rows [n, K])."""

    store: Store
    weight: Weight

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def rows_per_chunk(self) -> int:
        return max(1, ROW_CHUNK_BYTES // (4 * self.weight.shape[1]))

    def part(self, first: int, stop: int) -> Floats:
        """Rows [first, stop) in float32."""
        return decode(self.store.read(self.weight, first, stop - first), self.weight.dtype, self.weight.shape[1])

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        num_rows, columns = self.weight.shape
        for first in range(0, num_rows, self.rows_per_chunk):
            count = min(self.rows_per_chunk, num_rows - first)
            yield first, decode(self.store.read(self.weight, first, count), self.weight.dtype, columns)

    def __getitem__(self, rows: NDArray[np.integer]) -> Floats:
        """Single rows, each read by itself: [len(rows), K]."""
        columns = self.weight.shape[1]
        found = [decode(self.store.read(self.weight, int(row), 1), self.weight.dtype, columns) for row in rows]
        return np.concatenate(found)


def whole(store: Store, weight: Weight) -> Floats:
    """All of a weight: float32 [N, K], or [N] of a vector."""
    if len(weight.shape) == 1:
        return store.vector(weight)
    return decode(store.read(weight), weight.dtype, weight.shape[1])


def head_rows(model: Model, store: Store) -> Iterator[tuple[int, Floats]]:
    """The output head's rows, (first row, rows [n, D]) at a time."""
    weights = {weight.name: weight for weight in model.part("language").weights()}
    return iter(RowSource(store, weights.get("head", weights["embed"])))
