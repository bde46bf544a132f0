"""The grid of a format: which values it can hold once the scales of its groups are set, and which code each has.

Rounding that compensates errors sets the scales first and then visits one column at a time, so a grid is read column
by column: value = d * level + m, with d and m [N] those of the column's group, exactly as the format stores them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.formats.fitting import fit_aff, fit_sym, fit_table
from pintpot.formats.registry import Encoding, encoding, has_grid
from pintpot.formats.tiles import Codes, pack_codes, zero_code

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
_GROUP = 32


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales and minima of all groups, float32 [N, G]; `m` None where there is none.

    `written` are the codes (of whatever values) whose scales these are, for formats that write them as bytes.
    """

    d: Floats
    m: Floats | None = None
    written: Codes | None = None


@dataclass(frozen=True, slots=True)
class Grid(ABC):
    """A packed format whose columns have a scale in groups of `group`. Levels are what is scaled, as float32."""

    found: Encoding
    group: int

    @classmethod
    def of(cls, name: str) -> Grid:
        """Raises BadInput for a format that has no grid."""
        found = encoding(name)
        need(has_grid(name), f"{name} has no grid of scaled groups; symB, affB and formats with a table have")
        if found.kind == "table":
            return TableGrid.made(found)
        half_range = 1 << (found.code_bits - 1)
        low = -half_range if found.kind == "sym" else 0
        return UniformGrid(found, _GROUP, low, low + 2 * half_range - 1)

    @abstractmethod
    def fit(self, values: Floats, importance: Floats | None = None) -> Scales:
        """Scales of float32 [N, K] that minimise sum of importance [K] * (value - nearest)^2 group by group, searched.

        Raises BadInput for values that are not finite.
        """

    @abstractmethod
    def snap(self, units: Floats) -> Floats:
        """The level nearest to each value that was divided by its scale; the array may be used for it."""

    @abstractmethod
    def codes(self, levels: Floats) -> Bytes:
        """The code of each level."""

    @property
    def refits(self) -> bool:
        """Whether scales may be any numbers of float16 that serve their levels best."""
        return self.found.kind != "table"

    def nearest(self, values: Floats, scales: Scales) -> Floats:
        """The level nearest to each value, float32 [N, K]."""
        d = self.spread(scales.d, values.shape[1])
        by = np.zeros_like(d)
        np.divide(np.float32(1), d, out=by, where=d != 0)
        by *= values if scales.m is None else values - self.spread(scales.m, values.shape[1])
        return self.snap(by)

    def values(self, levels: Floats, scales: Scales) -> Floats:
        """What levels [N, K] stand for, with the arithmetic of docs/layout.md."""
        found = levels * self.spread(scales.d, levels.shape[1])
        return found if scales.m is None else found + self.spread(scales.m, levels.shape[1])

    def strips(self, levels: Floats, scales: Scales) -> Bytes:
        """Levels [N, K] and their scales as the format's strips."""
        rows, columns = levels.shape
        width = self.found.num_groups(columns) * self.found.group_columns
        codes = np.full((rows, width), zero_code(self.found), np.uint8)
        codes[:, :columns] = self.codes(levels)
        if scales.written is not None:
            made = Codes(codes, scales.written.d, None, scales.written.unit)
        else:
            m = None if scales.m is None else scales.m.astype(np.float16)
            made = Codes(codes, scales.d.astype(np.float16), m)
        return pack_codes(made, self.found.name, columns)

    def spread(self, scales: Floats, columns: int) -> Floats:
        """Scales [N, G] for each column, [N, K]."""
        return np.repeat(scales, self.group, axis=1)[:, :columns]


@dataclass(frozen=True, slots=True)
class UniformGrid(Grid):
    """`symB` and `affB`: whole numbers from `low` to `high`."""

    low: int
    high: int

    def fit(self, values: Floats, importance: Floats | None = None) -> Scales:
        weights = _weights(values, importance)
        if self.found.kind == "sym":
            return Scales(fit_sym(values, weights, self.found.code_bits))
        return Scales(*fit_aff(values, weights, self.found.code_bits))

    def snap(self, units: Floats) -> Floats:
        np.rint(units, out=units)
        return np.clip(units, self.low, self.high, out=units)

    def codes(self, levels: Floats) -> Bytes:
        return (levels - np.float32(self.low)).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class TableGrid(Grid):
    """Formats whose codes point into a table of 16 whole numbers.

    Between two halves of a whole number all values are nearest to the same level: `level_of` has it, from -`bound` up.
    """

    bound: int
    level_of: Floats
    code_of: Bytes

    @classmethod
    def made(cls, found: Encoding) -> TableGrid:
        bound, levels = max(map(abs, found.levels)), np.array(found.levels)
        middles = (np.arange(4 * bound) + 0.5) / 2 - bound
        nearest = np.abs(middles[:, None] - levels).argmin(axis=1)
        code_of = np.zeros(2 * bound + 1, np.uint8)
        for code in range(len(levels) - 1, -1, -1):
            code_of[levels[code] + bound] = code
        return cls(found, found.scale_columns, bound, levels[nearest].astype(np.float32), code_of)

    def fit(self, values: Floats, importance: Floats | None = None) -> Scales:
        weights = _weights(values, importance)
        written = fit_table(values, weights, self.found, self.snap)
        return Scales(written.scales(self.found.name), None, written)

    def snap(self, units: Floats) -> Floats:
        units *= np.float32(2)
        units += np.float32(2 * self.bound)
        np.clip(units, 0, 4 * self.bound - 1, out=units)
        return self.level_of.take(units.astype(np.intp))

    def codes(self, levels: Floats) -> Bytes:
        return self.code_of.take(levels.astype(np.intp) + self.bound)


def _weights(values: Floats, importance: Floats | None) -> Floats:
    need(bool(np.isfinite(values).all()), "weights that are infinite or not a number cannot be rounded")
    return np.ones(values.shape[1], np.float32) if importance is None else importance
