"""Rounding one column after the other, where what a column errs is taken up by the columns that follow.

GPTQ (Frantar et al. 2022, arXiv:2210.17323), after Optimal Brain Surgeon: with the Hessian H of the squared error of a
layer's outputs and H^-1 = U^T U, an error e of column i, in units of U[i, i], is taken off column j > i U[i, j] times.
Then, group by group, scales are fitted to their levels by least squares under the same Hessian, and each level moves to
where it is best given all others (coordinate descent: QuantEase, Behdin et al. 2023, arXiv:2309.01885).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, need
from pintpot.formats.grid import Grid, Scales

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
BLOCK = 32
_MOST_TRIES = 8
_INVERSE_LEAF = 64


@dataclass(frozen=True, slots=True)
class Hessian:
    """A damped Hessian [K, K], the `order` in which columns are visited, and U of its inverse in that order."""

    matrix: Floats
    order: NDArray[np.intp]
    upper: Floats

    @classmethod
    def of(cls, moment: Floats, damping: float, falling: bool) -> Hessian:
        """From the second moment [K, K] of a layer's inputs, `damping` times its mean diagonal added.

        `falling` visits the columns with the largest diagonal first. Where the matrix is still not positive definite,
        damping grows tenfold until it is. Raises BadInput for a moment that is not finite.
        """
        diagonal = np.diagonal(moment).astype(np.float64)
        need(bool(np.isfinite(diagonal).all()), "second moments are not finite: calibration overflowed")
        order = np.argsort(-diagonal, kind="stable") if falling else np.arange(len(moment))
        mean = float(diagonal.mean()) or 1.0
        # Turned round, so that its lower factor, turned round again, is the upper factor of the inverse.
        visited = moment[np.ix_(order[::-1], order[::-1])].astype(np.float64)
        bare = np.diagonal(visited).copy()
        for _ in range(_MOST_TRIES):
            visited[np.diag_indices_from(visited)] = bare + damping * mean
            try:
                lower = np.linalg.cholesky(visited).astype(np.float64, copy=False)
            except np.linalg.LinAlgError:
                damping = max(10 * damping, 1e-6)
                continue
            del visited
            upper = _inverse(lower)[::-1, ::-1].astype(np.float32)
            matrix = moment.copy()
            matrix[np.diag_indices_from(matrix)] += np.float32(damping * mean)
            return cls(matrix, order, np.ascontiguousarray(upper))
        raise BadInput("second moments are not positive definite, however much they are damped")


def corrected(values: Floats, moment: Floats, crossed: Floats, hessian: Hessian, share: float) -> Floats:
    """Weights [N, K] that give of the rows x that come what the values give of the rows f that should have come.

    Least squares, damped as the Hessian is: W + W E[(f - x) x^T] H^-1, of which `share` is taken: the asymmetric
    calibration of GPTAQ (Li et al. 2025, arXiv:2504.02692).
    """
    missed = (values @ crossed - values @ moment)[:, hessian.order]
    wanted = (missed @ hessian.upper.T) @ hessian.upper
    found = values.copy()
    found[:, hessian.order] += np.float32(share) * wanted
    return found


def compensated(values: Floats, grid: Grid, scales: Scales, hessian: Hessian) -> Floats:
    """Levels [N, K] of float32 [N, K] on a grid whose scales are set."""
    columns = _Columns(grid, scales, hessian.order)
    left = np.ascontiguousarray(values.T[hessian.order])
    levels = np.empty_like(left)
    upper = hessian.upper
    for first in range(0, len(left), BLOCK):
        stop = min(first + BLOCK, len(left))
        errors = np.empty((stop - first, left.shape[1]), np.float32)
        for i in range(first, stop):
            levels[i], value = columns.nearest(i, left[i])
            error = np.subtract(left[i], value, out=errors[i - first])
            error /= upper[i, i]
            left[i + 1 : stop] -= upper[i, i + 1 : stop, None] * error
        left[stop:] -= upper[first:stop, stop:].T @ errors
    return _back(levels, hessian.order)


def descended(values: Floats, levels: Floats, grid: Grid, scales: Scales, hessian: Hessian) -> tuple[Floats, Scales]:
    """Levels and scales after one pass of descent: tr(E H E^T) of the error E never grows, but for rounding.

    Group after group first its scale and minimum are set by least squares under the whole Hessian, all else given, and
    then each of its levels.
    """
    columns = _Columns(grid, scales, np.arange(len(hessian.matrix)))
    found, matrix = np.ascontiguousarray(levels.T), hessian.matrix
    slopes = matrix @ np.ascontiguousarray((values - grid.values(levels, scales)).T)
    for group in range(len(columns.d)):
        first, stop = group * grid.group, min((group + 1) * grid.group, len(found))
        own = matrix[first:stop, first:stop]
        changes = columns.refit(group, found[first:stop], slopes[first:stop], own)
        slopes[first:stop] -= own @ changes
        for i in range(first, stop):
            before = columns.value(i, found[i])
            found[i], after = columns.nearest(i, before + slopes[i] * (np.float32(1) / matrix[i, i]))
            change = after - before
            changes[i - first] += change
            slopes[i:stop] -= matrix[i, i:stop, None] * change
        slopes[stop:] -= matrix[first:stop, stop:].T @ changes
    return np.ascontiguousarray(found.T), columns.scales()


def squared_error(values: Floats, levels: Floats, grid: Grid, scales: Scales, moment: Floats) -> float:
    """tr(E M E^T) of the error E [N, K] under a second moment M [K, K]."""
    errors = values - grid.values(levels, scales)
    return float(np.sum((errors @ moment) * errors, dtype=np.float64))


class _Columns:
    """A grid read by visited column: scales, their inverses and minima lie as [G, N]."""

    def __init__(self, grid: Grid, scales: Scales, order: NDArray[np.intp]) -> None:
        self._grid, self._groups, self._first = grid, order // grid.group, scales
        self.d = np.ascontiguousarray(scales.d.T)
        self._by = _inverse_of(self.d)
        self._m = None if scales.m is None else np.ascontiguousarray(scales.m.T)

    def scales(self) -> Scales:
        m = None if self._m is None else np.ascontiguousarray(self._m.T)
        return Scales(np.ascontiguousarray(self.d.T), m, self._first.shared)

    def nearest(self, column: int, values: Floats) -> tuple[Floats, Floats]:
        """Levels nearest to the values [N] of the visited column, and what they stand for."""
        group = self._groups[column]
        found = values * self._by[group] if self._m is None else (values - self._m[group]) * self._by[group]
        found = self._grid.snap(found)
        return found, self.value(column, found)

    def value(self, column: int, levels: Floats) -> Floats:
        group = self._groups[column]
        found: Floats = levels * self.d[group]
        if self._m is not None:
            found += self._m[group]
        return found

    def refit(self, group: int, levels: Floats, slopes: Floats, own: Floats) -> Floats:
        """Set a group's scale (and minimum) where the error is least; by how much its values [32, N] changed.

        What changes by c changes the error by c^T H c - 2 c^T slopes; rows that would not gain stay as they are.
        """
        bent = own @ levels
        along, size = np.einsum("kn,kn->n", levels, slopes), np.einsum("kn,kn->n", levels, bent)
        if self._m is None:
            d = self._grid.stored(self.d[group] + _ratio(along, size), group, self._first)
            step = d - self.d[group]
            gains = step * (step * size - 2 * along) < 0
            self._set(group, np.where(gains, d, self.d[group]), None)
            return levels * np.where(gains, step, 0)
        flat, cross, total = slopes.sum(axis=0), bent.sum(axis=0), own.sum()
        bend = size * total - cross * cross
        # Where all levels are alike, scale and minimum cannot be told apart.
        apart = bend > 1e-4 * size * total
        wanted = np.where(apart, _ratio(along * total - flat * cross, bend), 0)
        d = self._grid.stored(np.maximum(self.d[group] + wanted, 0), group, self._first)
        step = d - self.d[group]
        m = self._m[group] + _ratio(flat - step * cross, np.full_like(flat, total))
        m = self._grid.stored_minima(m, group, self._first)
        lift = m - self._m[group]
        gains = step * (step * size - 2 * along) + lift * (lift * total - 2 * flat) + 2 * step * lift * cross < 0
        self._set(group, np.where(gains, d, self.d[group]), np.where(gains, m, self._m[group]))
        return np.where(gains, levels * step + lift, 0)

    def _set(self, group: int, d: Floats, m: Floats | None) -> None:
        self.d[group], self._by[group] = d, _inverse_of(d)
        if self._m is not None and m is not None:
            self._m[group] = m


def _inverse_of(d: Floats) -> Floats:
    return _ratio(np.ones_like(d), d)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, and 0 where the denominator is 0."""
    found = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=found, where=denominator != 0)
    return found


def _back(visited: Floats, order: NDArray[np.intp]) -> Floats:
    """Rows in the order of visits as columns in their own: [K, N] -> [N, K]."""
    found = np.empty((visited.shape[1], visited.shape[0]), np.float32)
    found[:, order] = visited.T
    return found


def _inverse(lower: Doubles) -> Doubles:
    """The inverse of a lower triangular matrix, halves at a time, so that nearly all work is products."""
    size = len(lower)
    if size <= _INVERSE_LEAF:
        return np.tril(np.linalg.inv(lower))
    middle = size // 2
    found = np.zeros_like(lower)
    found[:middle, :middle] = _inverse(lower[:middle, :middle])
    found[middle:, middle:] = _inverse(lower[middle:, middle:])
    found[middle:, :middle] = -found[middle:, middle:] @ (lower[middle:, :middle] @ found[:middle, :middle])
    return found
