"""Scales of groups by search, where some columns matter more than others: minimise sum h (w - q)^2 over each group.

Several clipped ranges are tried; to each a scale (and a minimum) is fitted by weighted least squares, and the best is
fitted again to the codes that it gives (Lloyd 1982). The plain range, extremes onto extreme codes, stays where it errs
less. The 32 columns of a group lie along the first axis, so every sum has one order, on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pintpot.formats.registry import Encoding
from pintpot.formats.rounding import round_to_nearest
from pintpot.formats.tiles import Codes
from pintpot.formats.working import rounding_rows

Floats = NDArray[np.float32]
GROUP = 32
_HALF_MAX = 65504.0
_VANISHING = 1e-30
_SYM_RANGES = (*(round(1.1 - 0.06 * step, 2) for step in range(10)), -1.04, -0.95, -0.86, -0.77)
_AFF_RANGES = tuple(round(1.04 - 0.06 * step, 2) for step in range(9))
_LLOYD_STEPS = 2
_BYTE_STEPS = {"u8": (0, -20, -14, -9, -5, -2, 2, 5, 9, 14), "e4m3": (0, -3, -2, -1, 1, 2, 3), "e8m0": (0, -1, 1)}
"""How far from the byte of rounding to nearest scales are tried."""
_MOST_BYTE = {"u8": 255, "e4m3": 0x7E, "e8m0": 254}


def half(values: Floats) -> Floats:
    """Values as float16 stores them, saturated, in float32."""
    return np.clip(values, -_HALF_MAX, _HALF_MAX).astype(np.float16).astype(np.float32)


def fit_sym(values: Floats, importance: Floats, bits: int) -> Floats:
    """Scales float32 [N, G] of finite float32 [N, K] with importance [K] >= 0, for `symB`."""
    rows, columns = values.shape
    d = np.empty((rows, -(-columns // GROUP)), np.float32)
    h = by_group(importance[None], 0.0)
    for first in range(0, rows, rounding_rows(columns)):
        part = slice(first, first + rounding_rows(columns))
        d[part] = GroupFit(by_group(values[part], None), h, -(1 << (bits - 1)), (1 << (bits - 1)) - 1).sym()
    return d


def fit_aff(values: Floats, importance: Floats, bits: int) -> tuple[Floats, Floats]:
    """Scales and minima float32 [N, G] of finite float32 [N, K] with importance [K] >= 0, for `affB`."""
    rows, columns = values.shape
    d, m = (np.empty((rows, -(-columns // GROUP)), np.float32) for _ in range(2))
    h = by_group(importance[None], 0.0)
    for first in range(0, rows, rounding_rows(columns)):
        part = slice(first, first + rounding_rows(columns))
        d[part], m[part] = GroupFit(by_group(values[part], None), h, 0, (1 << bits) - 1).aff()
    return d, m


def fit_table(values: Floats, importance: Floats, found: Encoding, snap: Callable[[Floats], Floats]) -> Codes:
    """Codes whose scales serve finite float32 [N, K] with importance [K] >= 0 best, for a format with a table.

    Of the scales that bytes near the one of rounding to nearest write, each group takes the best. `snap` gives the
    nearest level of values divided by their scale.
    """
    nearest = round_to_nearest(values, found.name)
    h = np.zeros((1, nearest.d.shape[1] * found.scale_columns), np.float32)
    h[0, : values.shape[1]] = importance
    best, chosen = np.full(nearest.d.shape, np.inf, np.float32), nearest.d.copy()
    for step in _BYTE_STEPS[found.scale]:
        tried = np.clip(nearest.d.astype(np.int16) + step, 0, _MOST_BYTE[found.scale]).astype(np.uint8)
        d = replace(nearest, d=tried).scales(found.name)
        for first in range(0, len(values), rounding_rows(values.shape[1])):
            part = slice(first, first + rounding_rows(values.shape[1]))
            by_scale = np.zeros((len(d[part]), h.shape[1]), np.float32)
            by_scale[:, : values.shape[1]] = values[part]
            grouped = by_scale.reshape(*d[part].shape, found.scale_columns)
            off = snap(grouped * ratio(np.ones_like(d[part]), d[part])[..., None])
            off *= d[part][..., None]
            off -= grouped
            error = np.einsum("rgk,rgk,gk->rg", off, off, h.reshape(-1, found.scale_columns))
            better = error < best[part]
            best[part], chosen[part] = np.where(better, error, best[part]), np.where(better, tried[part], chosen[part])
    return replace(nearest, d=chosen)


def by_group(values: Floats, fill: float | None, width: int = GROUP) -> Floats:
    """[N, K] as [width, N, G]; columns past K hold `fill`, or repeat the last column."""
    rows, columns = values.shape
    short = -columns % width
    if short:
        past = values[:, -1:] if fill is None else np.full((rows, 1), fill, np.float32)
        values = np.concatenate([values, np.repeat(past, short, axis=1)], axis=1)
    return np.ascontiguousarray(values.reshape(rows, -1, width).transpose(2, 0, 1))


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, and 0 where the denominator all but vanishes."""
    found = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=found, where=np.abs(denominator) > _VANISHING)
    return found


def weighted_error(q: Floats, d: Floats, m: Floats | None, w: Floats, h: Floats) -> Floats:
    """Sum h (q d + m - w)^2 of each group, [n, G], of levels q [width, n, G], which are spent."""
    q *= d
    if m is not None:
        q += m
    q -= w
    return np.asarray(np.einsum("krg,krg,kg->rg", q, q, h[:, 0]))


@dataclass(frozen=True, slots=True)
class GroupFit:
    """Groups w [width, n, G] with importance h [width, 1, G], onto whole numbers from `low` to `high`."""

    w: Floats
    h: Floats
    low: int
    high: int

    def sym(self) -> Floats:
        """Scales [n, G] without a minimum."""
        least, most = self.w.min(axis=0), self.w.max(axis=0)
        extreme = np.where(most > -least, most, least) * np.float32(1 / self.low)
        best, found = np.full_like(extreme, -1), np.zeros_like(extreme)
        for factor in _SYM_RANGES:
            explained, fit = self._sym_fit(extreme * np.float32(factor))
            better = explained > best
            np.copyto(best, explained, where=better)
            np.copyto(found, fit, where=better)
        for _ in range(_LLOYD_STEPS):
            found = self._sym_fit(found)[1]
        plain, fitted = half(extreme), half(found)
        return np.where(self._error(fitted, None) < self._error(plain, None), fitted, plain)

    def aff(self) -> tuple[Floats, Floats]:
        """Scales and minima [n, G]."""
        least, most = self.w.min(axis=0), self.w.max(axis=0)
        m = half(least)
        d = np.maximum(half((most - m) * np.float32(1 / self.high)), 0)
        best = self._error(d, m)
        for factor in _AFF_RANGES:
            shut = np.float32((1 - factor) / 2)
            at = least + (most - least) * shut
            width = (most - least) * np.float32(factor / self.high)
            for _ in range(_LLOYD_STEPS):
                width, at = self._aff_fit(width, at)
            width, at = half(width), half(at)
            error = self._error(width, at)
            better = error < best
            best = np.where(better, error, best)
            d, m = np.where(better, width, d), np.where(better, at, m)
        return d, m

    def _levels(self, d: Floats, m: Floats | None) -> Floats:
        q = self.w * ratio(np.ones_like(d), d) if m is None else (self.w - m) * ratio(np.ones_like(d), d)
        np.rint(q, out=q)
        return np.clip(q, self.low, self.high, out=q)

    def _sym_fit(self, d: Floats) -> tuple[Floats, Floats]:
        """How much of a group the levels of a scale explain, and the scale that fits them best."""
        q = self._levels(d, None)
        weighted = q * self.h
        along = np.einsum("krg,krg->rg", weighted, self.w)
        fit = ratio(along, np.einsum("krg,krg->rg", weighted, q))
        return along * fit, fit

    def _aff_fit(self, d: Floats, m: Floats) -> tuple[Floats, Floats]:
        """The scale and minimum that fit the levels of a scale and minimum best."""
        q = self._levels(d, m)
        total = self.h.sum(axis=0)
        weighted = q * self.h
        q_sum, w_sum = weighted.sum(axis=0), np.einsum("krg,kg->rg", self.w, self.h[:, 0])
        qq, qw = np.einsum("krg,krg->rg", weighted, q), np.einsum("krg,krg->rg", weighted, self.w)
        fit = np.maximum(ratio(total * qw - q_sum * w_sum, total * qq - q_sum * q_sum), 0)
        return fit, ratio(w_sum - fit * q_sum, np.broadcast_to(total, fit.shape))

    def _error(self, d: Floats, m: Floats | None) -> Floats:
        return weighted_error(self._levels(d, m), d, m, self.w, self.h)
