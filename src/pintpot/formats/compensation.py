"""Rounding one column after the other, where what a column errs is taken up by the columns that follow.

GPTQ (Frantar et al. 2022, arXiv:2210.17323), after Optimal Brain Surgeon: with the Hessian H of the squared error of a
layer's outputs and H^-1 = U^T U, an error e of column i, in units of U[i, i], is taken off column j > i U[i, j] times.
Then, column by column again, each level moves to where it is best given all others (coordinate descent: QuantEase,
Behdin et al. 2023, arXiv:2309.01885), and scales are fitted to the levels that came out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, need
from pintpot.formats.grid import GROUP, Grid, Scales

Floats = NDArray[np.float32]
BLOCK = 32
_MOST_TRIES = 8
_INVERSE_LEAF = 64


@dataclass(frozen=True, slots=True)
class Hessian:
    """A damped Hessian [K, K] in the `order` in which columns are visited, and U of its inverse."""

    order: NDArray[np.intp]
    matrix: Floats
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
        matrix = moment[np.ix_(order, order)].astype(np.float64)
        for _ in range(_MOST_TRIES):
            damped = matrix.copy()
            damped[np.diag_indices_from(damped)] += damping * mean
            try:
                # Turned round twice, the lower factor gives the upper factor of the inverse.
                lower = np.linalg.cholesky(damped[::-1, ::-1])
            except np.linalg.LinAlgError:
                damping = max(10 * damping, 1e-6)
                continue
            upper = _inverse(np.ascontiguousarray(lower))[::-1, ::-1]
            return cls(order, damped.astype(np.float32), np.ascontiguousarray(upper, np.float32))
        raise BadInput("second moments are not positive definite, however much they are damped")


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


def descended(values: Floats, levels: Floats, grid: Grid, scales: Scales, hessian: Hessian) -> Floats:
    """Levels after one pass of coordinate descent over them: tr(E H E^T) of the error E never grows."""
    columns = _Columns(grid, scales, hessian.order)
    order, matrix = hessian.order, hessian.matrix
    errors = np.ascontiguousarray((values - grid.values(levels, scales)).T[order])
    found = np.ascontiguousarray(levels.T[order])
    slopes = matrix @ errors
    for first in range(0, len(found), BLOCK):
        stop = min(first + BLOCK, len(found))
        changes = np.empty((stop - first, found.shape[1]), np.float32)
        for i in range(first, stop):
            before = columns.value(i, found[i])
            found[i], after = columns.nearest(i, before + slopes[i] * (np.float32(1) / matrix[i, i]))
            change = np.subtract(after, before, out=changes[i - first])
            slopes[i:stop] -= matrix[i, i:stop, None] * change
        slopes[stop:] -= matrix[first:stop, stop:].T @ changes
    return _back(found, order)


def squared_error(values: Floats, levels: Floats, grid: Grid, scales: Scales, moment: Floats) -> float:
    """tr(E M E^T) of the error E [N, K] under a second moment M [K, K]."""
    errors = values - grid.values(levels, scales)
    return float(np.sum((errors @ moment) * errors, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class _Columns:
    """A grid read by visited column: scales and their inverses lie as [G, N]."""

    grid: Grid
    groups: NDArray[np.intp]
    d: Floats
    by: Floats
    m: Floats | None

    def __init__(self, grid: Grid, scales: Scales, order: NDArray[np.intp]) -> None:
        d = np.ascontiguousarray(scales.d.T)
        by = np.zeros_like(d)
        np.divide(np.float32(1), d, out=by, where=d != 0)
        m = None if scales.m is None else np.ascontiguousarray(scales.m.T)
        for name, value in (("grid", grid), ("groups", order // GROUP), ("d", d), ("by", by), ("m", m)):
            object.__setattr__(self, name, value)

    def nearest(self, column: int, values: Floats) -> tuple[Floats, Floats]:
        """Levels nearest to the values [N] of the visited column, and what they stand for."""
        group = self.groups[column]
        found = values * self.by[group] if self.m is None else (values - self.m[group]) * self.by[group]
        np.rint(found, out=found)
        np.clip(found, self.grid.low, self.grid.high, out=found)
        return found, self.value(column, found)

    def value(self, column: int, levels: Floats) -> Floats:
        group = self.groups[column]
        found: Floats = levels * self.d[group]
        if self.m is not None:
            found += self.m[group]
        return found


def _back(visited: Floats, order: NDArray[np.intp]) -> Floats:
    """Rows in the order of visits as columns in their own: [K, N] -> [N, K]."""
    found = np.empty((visited.shape[1], visited.shape[0]), np.float32)
    found[:, order] = visited.T
    return found


def _inverse(lower: NDArray[np.float64]) -> NDArray[np.float64]:
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
