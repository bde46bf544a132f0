"""Scales of superblocks by search: sub-blocks whose scales and minima are small whole numbers of units that 256 share.

Each group is fitted by itself first; the largest of a superblock set its units. Then, in turn, every group tries the
whole numbers near its scale, each with the minimum that serves it best, and the units are fitted to all groups together
by weighted least squares. Groups in units that float16 rounds stay as they are where that errs less.

Shapes: n rows, S superblocks, G groups of `width` columns, which lie along the first axis: w [width, n, G].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.fitting import GroupFit, by_group, half, ratio, weighted_error
from pintpot.formats.registry import Encoding
from pintpot.formats.working import rounding_rows

Floats = NDArray[np.float32]
_SATURATED = 2.0**40
_FAR = (-16, -12, -8, -4, 0, 4)
_NEAR, _NEXT = (-2, 0, 2), (-1, 0, 1)
_TURNS = (_FAR, _NEAR, _NEXT)


@dataclass(frozen=True, slots=True)
class Units:
    """Units d [n, S] and whole numbers `steps` [n, G]: a scale is their product. Minima are -dmin * minima, or none."""

    d: Floats
    steps: Floats
    dmin: Floats | None = None
    minima: Floats | None = None

    @property
    def scales(self) -> Floats:
        return self.steps * _spread(self.d, self.steps)

    @property
    def offsets(self) -> Floats | None:
        return None if self.dmin is None or self.minima is None else -(self.minima * _spread(self.dmin, self.minima))


def fit_super(values: Floats, importance: Floats, found: Encoding, search: bool = True) -> Units:
    """Units of finite float32 [N, K] with importance [K] >= 0 in a superblock format.

    Without a search extremes lie on the extreme codes, as near as units allow.
    """
    rows, columns = values.shape
    h = by_group(importance[None], 0.0, found.scale_columns)
    parts = []
    for first in range(0, rows, rounding_rows(columns)):
        part = np.clip(values[first : first + rounding_rows(columns)], -_SATURATED, _SATURATED)
        parts.append(_SuperFit.of(by_group(part, None, found.scale_columns), h, found).units(search))
    return joined(parts)


def step_range(found: Encoding) -> tuple[int, int]:
    """The least and the largest whole number that a group's scale, or minimum, can be in a superblock format."""
    return (0, 63) if found.has_minimum else (-128, 127)


def joined(parts: list[Units]) -> Units:
    """Units of all rows of several parts."""
    d, steps = np.concatenate([one.d for one in parts]), np.concatenate([one.steps for one in parts])
    dmin = [one.dmin for one in parts if one.dmin is not None]
    minima = [one.minima for one in parts if one.minima is not None]
    return Units(d, steps, np.concatenate(dmin), np.concatenate(minima)) if dmin else Units(d, steps)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of each group sums of h, h w, and with the levels q: h q, h q q, h q w."""

    h: Floats
    w: Floats
    q: Floats
    qq: Floats
    qw: Floats


@dataclass(frozen=True, slots=True)
class _SuperFit:
    """Groups w [width, n, G] with importance h [width, 1, G]; steps from `least` to `most`, levels `low` to `high`."""

    w: Floats
    h: Floats
    low: int
    high: int
    least: int
    most: int
    per_block: int
    has_minimum: bool

    @classmethod
    def of(cls, w: Floats, h: Floats, found: Encoding) -> _SuperFit:
        per_block, levels = found.block_columns // found.scale_columns, 1 << found.code_bits
        low = 0 if found.has_minimum else -levels // 2
        return cls(w, h, low, low + levels - 1, *step_range(found), per_block, found.has_minimum)

    def units(self, search: bool) -> Units:
        plain = self._written(*self._plain())
        if not search:
            return plain
        found = self._written(*self._alone())
        for near in _TURNS:
            found = self._fitted(self._stepped(found, near))
        found = self._stepped(found, _NEXT)
        better = self._by_block(self._error(found)) < self._by_block(self._error(plain))
        return self._where(better, found, plain)

    def _plain(self) -> tuple[Floats, Floats | None]:
        """Scales and minima of groups by themselves, extremes onto extreme codes; no minimum is above zero."""
        lowest, highest = self.w.min(axis=0), self.w.max(axis=0)
        if self.has_minimum:
            lowest = np.minimum(lowest, 0)
            return (np.maximum(highest, lowest) - lowest) * np.float32(1 / self.high), lowest
        return np.where(highest > -lowest, highest, lowest) * np.float32(1 / self.low), None

    def _alone(self) -> tuple[Floats, Floats | None]:
        """Scales and minima that serve groups by themselves best."""
        fit = GroupFit(self.w, self.h, self.low, self.high)
        if not self.has_minimum:
            return fit.sym(), None
        d, m = fit.aff()
        return d, np.minimum(m, 0)

    def _written(self, d: Floats, m: Floats | None) -> Units:
        """Scales and minima in the units that the largest of a superblock ask for."""
        unit = half(self._by_block(np.abs(d), np.maximum) * np.float32(1 / self.most))
        steps = self._whole(ratio(d, _spread(unit, d)))
        if m is None:
            return Units(unit, steps)
        dmin = half(self._by_block(-m, np.maximum) * np.float32(1 / self.most))
        return Units(unit, steps, dmin, self._whole(ratio(-m, _spread(dmin, m))))

    def _whole(self, steps: Floats) -> Floats:
        return np.clip(np.rint(steps), self.least, self.most)

    def _stepped(self, now: Units, near: tuple[int, ...]) -> Units:
        """The same units with the best of the steps `near` those of now, each with its best minimum."""
        d, unit = now.scales, _spread(now.d, now.steps)
        sums = self._sums(d, now.offsets)
        best, steps, minima = np.full_like(d, np.inf), now.steps, now.minima
        for step in near:
            tried = np.clip(now.steps + np.float32(step), self.least, self.most)
            scale = tried * unit
            offset = self._offset(scale, sums)
            mine = self._sums(scale, offset)
            offset, whole = self._offset_written(scale, mine, now)
            error = _error_of(scale, offset, mine)
            better = error < best
            best, steps = np.where(better, error, best), np.where(better, tried, steps)
            if whole is not None and minima is not None:
                minima = np.where(better, whole, minima)
        return Units(now.d, steps, now.dmin, minima)

    def _offset(self, scale: Floats, sums: _Sums) -> Floats | None:
        """The minimum that leaves the mean of a group where levels as those of `sums` have it."""
        return np.minimum(ratio(sums.w - scale * sums.q, sums.h), 0) if self.has_minimum else None

    def _offset_written(self, scale: Floats, sums: _Sums, now: Units) -> tuple[Floats | None, Floats | None]:
        offset = self._offset(scale, sums)
        if offset is None or now.dmin is None:
            return None, None
        unit = _spread(now.dmin, scale)
        whole = self._whole(ratio(-offset, unit))
        return -(whole * unit), whole

    def _fitted(self, now: Units) -> Units:
        """The same whole numbers in units that are fitted to all groups of a superblock."""
        sums = self._sums(now.scales, now.offsets)
        bend = self._by_block(now.steps * now.steps * sums.qq)
        along = self._by_block(now.steps * sums.qw)
        if now.dmin is None or now.minima is None:
            d = half(ratio(along, bend))
            return Units(np.where(d > 0, d, now.d), now.steps)
        cross, flat = self._by_block(now.steps * now.minima * sums.q), self._by_block(now.minima * sums.w)
        size = self._by_block(now.minima * now.minima * sums.h)
        apart = bend * size - cross * cross
        told = apart > 1e-4 * bend * size
        d = half(np.where(told, ratio(along * size - cross * flat, apart), ratio(along, bend)))
        dmin = half(ratio(cross * along - bend * flat, apart))
        good = (d > 0) & ((dmin > 0) | ~told)
        return Units(np.where(good, d, now.d), now.steps, np.where(good & told, dmin, now.dmin), now.minima)

    def _levels(self, d: Floats, m: Floats | None) -> Floats:
        by = ratio(np.ones_like(d), d)
        q = self.w * by if m is None else (self.w - m) * by
        np.rint(q, out=q)
        return np.clip(q, self.low, self.high, out=q)

    def _sums(self, d: Floats, m: Floats | None) -> _Sums:
        q = self._levels(d, m)
        weighted = q * self.h
        qq, qw = np.einsum("krg,krg->rg", weighted, q), np.einsum("krg,krg->rg", weighted, self.w)
        h = np.broadcast_to(self.h.sum(axis=0), d.shape)
        return _Sums(h, np.einsum("krg,kg->rg", self.w, self.h[:, 0]), weighted.sum(axis=0), qq, qw)

    def _error(self, now: Units) -> Floats:
        d, m = now.scales, now.offsets
        return weighted_error(self._levels(d, m), d, m, self.w, self.h)

    def _by_block(self, groups: Floats, gather: np.ufunc = np.add) -> Floats:
        """[n, G] gathered over superblocks, [n, S]."""
        found: Floats = gather.reduce(groups.reshape(len(groups), -1, self.per_block), axis=2)
        return found

    def _where(self, better: NDArray[np.bool_], one: Units, other: Units) -> Units:
        groups = np.repeat(better, self.per_block, axis=1)
        d, steps = np.where(better, one.d, other.d), np.where(groups, one.steps, other.steps)
        if one.dmin is None or other.dmin is None or one.minima is None or other.minima is None:
            return Units(d, steps)
        return Units(d, steps, np.where(better, one.dmin, other.dmin), np.where(groups, one.minima, other.minima))


def _error_of(d: Floats, m: Floats | None, sums: _Sums) -> Floats:
    """The squared error of groups but for what no scale changes, of levels as `sums` has them."""
    error = d * (d * sums.qq - 2 * sums.qw)
    return error if m is None else error + m * (m * sums.h - 2 * sums.w + 2 * d * sums.q)


def _spread(units: Floats, groups: Floats) -> Floats:
    """[n, S] for each group, [n, G]."""
    return np.repeat(units, groups.shape[1] // units.shape[1], axis=1)
