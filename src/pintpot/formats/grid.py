"""The grid of a format: which values it can hold once the scales of its groups are set, and which code each has.

Rounding that compensates errors sets the scales first and then visits one column at a time, so a grid is read column
by column: value = d * level + m, with d and m [N] those of the column's group, exactly as the format stores them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.formats.fitting import fit_aff, fit_sym, half
from pintpot.formats.registry import Encoding, encoding
from pintpot.formats.tiles import Codes, pack_codes

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
GROUP = 32


def has_grid(name: str) -> bool:
    """Whether values reach this format through scales of groups."""
    return encoding(name).kind in ("sym", "aff")


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales and minima of all groups, float32 [N, G], all of them values of float16; `m` None where there is none."""

    d: Floats
    m: Floats | None


@dataclass(frozen=True, slots=True)
class Grid:
    """A packed format in groups. Levels are signed whole numbers from `low` to `high`, as float32."""

    found: Encoding
    low: int
    high: int

    @classmethod
    def of(cls, name: str) -> Grid:
        """Raises BadInput for a format that has no grid."""
        found = encoding(name)
        need(has_grid(name), f"{name} has no grid of scaled groups; symB and affB have")
        half_range = 1 << (found.code_bits - 1)
        if found.kind == "sym":
            return cls(found, -half_range, half_range - 1)
        return cls(found, 0, 2 * half_range - 1)

    def fit(self, values: Floats, importance: Floats | None = None) -> Scales:
        """Scales of float32 [N, K] that minimise sum of importance [K] * (value - nearest)^2 group by group, searched.

        Raises BadInput for values that are not finite.
        """
        need(bool(np.isfinite(values).all()), "weights that are infinite or not a number cannot be rounded")
        weights = np.ones(values.shape[1], np.float32) if importance is None else importance
        if self.found.kind == "sym":
            return Scales(fit_sym(values, weights, self.found.code_bits), None)
        return Scales(*fit_aff(values, weights, self.found.code_bits))

    def levels(self, values: Floats, d: Floats, m: Floats | None) -> Floats:
        """The level nearest to each value; shapes agree by broadcasting."""
        by = np.zeros_like(d)
        np.divide(np.float32(1), d, out=by, where=d != 0)
        found = np.multiply(values if m is None else values - m, by)
        np.rint(found, out=found)
        return np.clip(found, self.low, self.high, out=found)

    def nearest(self, values: Floats, scales: Scales) -> Floats:
        """The level nearest to each value, float32 [N, K]."""
        d, m = (None if part is None else spread(part, values.shape[1]) for part in (scales.d, scales.m))
        return self.levels(values, d, m)  # type: ignore[arg-type]

    def values(self, levels: Floats, scales: Scales) -> Floats:
        """What levels [N, K] stand for, with the arithmetic of docs/layout.md."""
        found = levels * spread(scales.d, levels.shape[1])
        return found if scales.m is None else found + spread(scales.m, levels.shape[1])

    def strips(self, levels: Floats, scales: Scales) -> Bytes:
        """Levels [N, K] and their scales as the format's strips."""
        rows, columns = levels.shape
        codes = np.full((rows, scales.d.shape[1] * GROUP), -self.low, np.uint8)
        np.subtract(levels, np.float32(self.low), out=codes[:, :columns], casting="unsafe")
        m = None if scales.m is None else scales.m.astype(np.float16)
        return pack_codes(Codes(codes, scales.d.astype(np.float16), m), self.found.name, columns)

    def refitted(self, values: Floats, levels: Floats, importance: Floats, scales: Scales) -> Scales:
        """The scales with which these levels come closest to the values, by weighted least squares group by group.

        A group whose levels are all alike keeps the scale that it has.
        """
        w, q, h = (_grouped(part) for part in (values, levels, np.broadcast_to(importance, values.shape)))
        total = h.sum(axis=2)
        if scales.m is None:
            along, size = (h * q * w).sum(axis=2), (h * q * q).sum(axis=2)
            return Scales(half(np.where(size > 0, along / np.where(size > 0, size, 1), scales.d)), None)
        share = h / np.where(total > 0, total, 1)[..., None]
        q_mean, w_mean = (share * q).sum(axis=2), (share * w).sum(axis=2)
        apart = q - q_mean[..., None]
        along, size = (h * apart * w).sum(axis=2), (h * apart * apart).sum(axis=2)
        good = (size > 0) & (total > 0)
        d = half(np.where(good, along / np.where(good, size, 1), scales.d))
        return Scales(d, half(np.where(total > 0, w_mean - d * q_mean, scales.m)))


def spread(scales: Floats, columns: int) -> Floats:
    """Scales [N, G] for each column, [N, K]."""
    return np.repeat(scales, GROUP, axis=1)[:, :columns]


def _grouped(values: Floats) -> Floats:
    """[N, K] as [N, G, 32], with zeros for the columns past K."""
    rows, columns = values.shape
    groups = -(-columns // GROUP)
    if columns == groups * GROUP:
        return np.ascontiguousarray(values).reshape(rows, groups, GROUP)
    padded = np.zeros((rows, groups * GROUP), np.float32)
    padded[:, :columns] = values
    return padded.reshape(rows, groups, GROUP)
