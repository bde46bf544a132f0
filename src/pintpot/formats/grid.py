"""The grid of a format: which values it can hold once the scales of its groups are set, and which code each has.

Rounding that compensates errors sets the scales first and then visits one column at a time, so a grid is read column
by column: value = d * level + m, with d and m [N] those of the column's group, exactly as the format stores them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import PintpotError, need
from pintpot.formats.fitting import fit_aff, fit_sym, fit_table, half, ratio
from pintpot.formats.fitting_super import fit_super, step_range
from pintpot.formats.registry import Encoding, encoding, has_grid, need_fit
from pintpot.formats.scales import read_scales, units_by_row, write_scales
from pintpot.formats.superblock_codes import Superblocks, pack_superblocks
from pintpot.formats.tiles import Codes, pack_codes, zero_code

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
_GROUP = 32


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales and minima of all groups, float32 [N, G]; `m` None where there is none.

    `shared` are the numbers in units of which some formats write them as bytes: of runs of groups [S, U], or of
    superblocks the unit of scales and, where there are minima, theirs: [1 or 2, N, blocks].
    """

    d: Floats
    m: Floats | None = None
    shared: Floats | None = None


@dataclass(frozen=True, slots=True)
class Grid(ABC):
    """A packed format whose columns have a scale in groups of `group`. Levels are what is scaled, as float32."""

    found: Encoding
    group: int

    @classmethod
    def of(cls, name: str) -> Grid:
        """Raises BadInput for a format that has no grid."""
        found = encoding(name)
        need(
            has_grid(name),
            f"{name} has no grid of scaled groups; symB, affB, superblocks and formats with a table have",
        )
        if found.kind == "table":
            return TableGrid.made(found)
        if found.kind == "super":
            return SuperGrid.made(found)
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

    @abstractmethod
    def stored(self, d: Floats, group: int, scales: Scales) -> Floats:
        """The nearest scales to these [N] that a column group can be given, beside all others as they are."""

    @abstractmethod
    def stored_minima(self, m: Floats, group: int, scales: Scales) -> Floats:
        """The same of minima."""

    @abstractmethod
    def written(self, codes: Bytes, scales: Scales, columns: int) -> Bytes:
        """Strips of codes [N, padded columns] and their scales."""

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
        return self.written(codes, scales, columns)

    def spread(self, scales: Floats, columns: int) -> Floats:
        """Scales [N, G] for each column, [N, K]."""
        return np.repeat(scales, self.group, axis=1)[:, :columns]


@dataclass(frozen=True, slots=True)
class WholeNumbers(Grid):
    """Levels are whole numbers from `low` to `high`."""

    low: int
    high: int

    def snap(self, units: Floats) -> Floats:
        np.rint(units, out=units)
        return np.clip(units, self.low, self.high, out=units)

    def codes(self, levels: Floats) -> Bytes:
        return (levels - np.float32(self.low)).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class UniformGrid(WholeNumbers):
    """`symB` and `affB`: every group has a scale, and a minimum, of its own."""

    def fit(self, values: Floats, importance: Floats | None = None) -> Scales:
        weights = _weights(values, importance)
        if self.found.kind == "sym":
            return Scales(fit_sym(values, weights, self.found.code_bits))
        return Scales(*fit_aff(values, weights, self.found.code_bits))

    def stored(self, d: Floats, group: int, scales: Scales) -> Floats:
        return half(d)

    def stored_minima(self, m: Floats, group: int, scales: Scales) -> Floats:
        return half(m)

    def written(self, codes: Bytes, scales: Scales, columns: int) -> Bytes:
        m = None if scales.m is None else scales.m.astype(np.float16)
        return pack_codes(Codes(codes, scales.d.astype(np.float16), m), self.found.name, columns)


@dataclass(frozen=True, slots=True)
class SuperGrid(WholeNumbers):
    """Superblocks: the scales of groups, and their minima, are whole numbers of a unit that 256 columns share."""

    @classmethod
    def made(cls, found: Encoding) -> SuperGrid:
        low = 0 if found.has_minimum else -(1 << found.code_bits - 1)
        return cls(found, found.scale_columns, low, low + (1 << found.code_bits) - 1)

    def fit(self, values: Floats, importance: Floats | None = None) -> Scales:
        return self.scaled(values, _weights(values, importance))

    def scaled(self, values: Floats, importance: Floats, search: bool = True) -> Scales:
        """Scales of finite values; without a search extremes lie on the extreme levels."""
        need_fit(self.found, values.shape[1])
        units = fit_super(values, importance, self.found, search)
        shared = units.d[None] if units.dmin is None else np.stack([units.d, units.dmin])
        return Scales(units.scales, units.offsets, shared)

    def stored(self, d: Floats, group: int, scales: Scales) -> Floats:
        unit = self._units(scales, 0)[:, group // self._per_block]
        return self._steps(d, unit) * unit

    def stored_minima(self, m: Floats, group: int, scales: Scales) -> Floats:
        unit = self._units(scales, 1)[:, group // self._per_block]
        return -(self._steps(-m, unit) * unit)

    def written(self, codes: Bytes, scales: Scales, columns: int) -> Bytes:
        return pack_superblocks(self._superblocks(codes, scales), self.found.name)

    def _superblocks(self, codes: Bytes, scales: Scales) -> Superblocks:
        """Codes and scales as they are written; products of units and steps are exact in float32, so steps are too."""
        d = self._units(scales, 0)
        steps = self._steps(scales.d, np.repeat(d, self._per_block, axis=1))
        if scales.m is None:
            return Superblocks(codes, d.astype(np.float16), steps.astype(np.int8))
        dmin = self._units(scales, 1)
        minima = self._steps(-scales.m, np.repeat(dmin, self._per_block, axis=1))
        halves = d.astype(np.float16), dmin.astype(np.float16)
        return Superblocks(codes, halves[0], steps.astype(np.uint8), halves[1], minima.astype(np.uint8))

    @property
    def _per_block(self) -> int:
        return self.found.block_columns // self.group

    def _units(self, scales: Scales, which: int) -> Floats:
        if scales.shared is None:
            raise PintpotError(f"scales of {self.found.name} come with the units that they share")
        return np.asarray(scales.shared[which])

    def _steps(self, scales: Floats, units: Floats) -> Floats:
        return np.clip(np.rint(ratio(scales, units)), *step_range(self.found))


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
        return Scales(written.scales(self.found.name), None, written.unit)

    def snap(self, units: Floats) -> Floats:
        units *= np.float32(2)
        units += np.float32(2 * self.bound)
        np.clip(units, 0, 4 * self.bound - 1, out=units)
        return self.level_of.take(units.astype(np.intp))

    def stored(self, d: Floats, group: int, scales: Scales) -> Floats:
        units = units_by_row(scales.shared, len(d))
        if units is not None:
            run = group // (self.found.run_groups * (self.found.group_columns // self.found.scale_columns))
            units = units[:, run : run + 1]
        return read_scales(write_scales(d[:, None], units, self.found), units, self.found)[:, 0]

    def stored_minima(self, m: Floats, group: int, scales: Scales) -> Floats:
        raise PintpotError(f"groups of {self.found.name} have no minimum")

    def written(self, codes: Bytes, scales: Scales, columns: int) -> Bytes:
        d = write_scales(scales.d, units_by_row(scales.shared, len(codes)), self.found)
        return pack_codes(Codes(codes, d, None, scales.shared), self.found.name, columns)

    def codes(self, levels: Floats) -> Bytes:
        return self.code_of.take(levels.astype(np.intp) + self.bound)


def _weights(values: Floats, importance: Floats | None) -> Floats:
    need(bool(np.isfinite(values).all()), "weights that are infinite or not a number cannot be rounded")
    return np.ones(values.shape[1], np.float32) if importance is None else importance
