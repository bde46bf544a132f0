"""Statistics of the rows that meet a weight, summed text by text and block of columns by block of columns.

Every sum has one order: a text's rows by one product, then texts one after the other. Sums of texts are float32: some
hundred additions of numbers of one size lose less than calibration can see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.contract.statistics import InputStatistics
from pintpot.packer.calibrate.activations import Activations
from pintpot.packer.calibrate.parallel import each

Floats = NDArray[np.float32]
PARTS = 6
"""A moment is summed in so many blocks of its rows, each by one thread; only the upper half is computed."""
LEAST_COLUMNS = 64
Counts = Floats | None
"""How often each of a text's rows counts [T]; None: once."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one text's rows: how many, how often they count together, and by column the sums of |x| and x^2."""

    num_rows: int
    counted: float
    absolute: Floats
    square: Floats

    @classmethod
    def of(cls, rows: Floats, counts: Counts = None) -> Sums:
        if counts is None:
            return cls(len(rows), len(rows), np.abs(rows).sum(axis=0), np.einsum("tk,tk->k", rows, rows))
        square = np.einsum("t,tk,tk->k", counts, rows, rows)
        return cls(len(rows), float(counts.sum(dtype=np.float64)), counts @ np.abs(rows), square)


def statistics(sums: list[Sums], moment: Floats | None, crossed: Floats | None = None) -> InputStatistics:
    """What was seen of all texts; `moment` is the sum of x x^T, `crossed` of f x^T."""
    num_rows, counted = sum(one.num_rows for one in sums), sum(one.counted for one in sums)
    for found in (moment, crossed):
        if found is not None:
            found *= np.float32(1 / counted)
    absolute, square = _mean([one.absolute for one in sums], counted), _mean([one.square for one in sums], counted)
    return InputStatistics(num_rows, moment, absolute, square, crossed)


def _mean(parts: list[Floats], counted: float) -> Floats:
    total = np.zeros(parts[0].shape, np.float64)
    for part in parts:
        total += part
    return (total / counted).astype(np.float32)


def _counted(rows: Floats, counts: Counts) -> Floats:
    return rows if counts is None else rows * counts[:, None]


def crossed_moment(
    rows: Activations, names: tuple[str, str], counts: Sequence[Counts], columns: int, threads: int
) -> Floats:
    """The sum of f x^T [K, K] over rows f and x that every text, whose `counts` these are, has under these names."""
    total = np.zeros((columns, columns), np.float32)
    width = max(LEAST_COLUMNS, -(-columns // PARTS))

    def part(first: int) -> None:
        stop = min(first + width, columns)
        for text, own in enumerate(counts):
            total[first:stop] += _counted(rows.get(names[0], text)[:, first:stop], own).T @ rows.get(names[1], text)

    each(part, range(0, columns, width), threads)
    return total


def second_moment(rows: Activations, name: str, counts: Sequence[Counts], columns: int, threads: int) -> Floats:
    """The sum of x x^T [K, K] over the rows that every text, whose `counts` these are, has under this name."""
    total = np.zeros((columns, columns), np.float32)
    width = max(LEAST_COLUMNS, -(-columns // PARTS))

    def part(first: int) -> None:
        stop = min(first + width, columns)
        for text, own in enumerate(counts):
            found = rows.get(name, text)
            total[first:stop, first:] += _counted(found[:, first:stop], own).T @ found[:, first:]

    each(part, range(0, columns, width), threads)
    for first in range(0, columns, width):
        stop = min(first + width, columns)
        upper = np.triu(total[first:stop, first:stop])
        total[first:stop, first:stop] = upper + np.triu(upper, 1).T
        total[stop:, first:stop] = total[first:stop, stop:].T
    return total
