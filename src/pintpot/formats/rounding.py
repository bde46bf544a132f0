"""Round to nearest in groups of 32 columns: float32 -> codes and float16 scales (`symB`) or scales and minima (`affB`).

Formats with a table are rounded in `rounding_table`.

The plain variant maps a group's extremes onto the extreme codes. The search tries a few clipped ranges, fits scale and
minimum to each by least squares (the inner step of Lloyd's quantizer, 1982), keeps the fit that explains most of the
group, and takes it only where, with the scales as float16 stores them, it errs less than the plain variant. Work is
done with the 32 columns of a group along the first axis, so every sum has one order, on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, need
from pintpot.formats.registry import Encoding, encoding
from pintpot.formats.rounding_table import round_table
from pintpot.formats.tiles import Codes, zero_code
from pintpot.formats.working import rounding_rows

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]

_GROUP = 32
_HALF_MAX = 65504.0
# No format here reaches 2**24; beyond 2**40 a value saturates all the same, and its square must stay finite.
_SATURATED = 2.0**40
_VANISHING = 2.0**-30
_SYM_RANGES = (1.0, 0.93, 0.86, 0.79, 0.72, -1.04)
_AFF_RANGES = (1.0, 0.94, 0.88, 0.82, 0.76, 0.66)


def round_to_nearest(values: Floats, name: str, *, search: bool = True) -> Codes:
    """Float32 [N, K] in the format `name` (`symB`, `affB`, one with a table).

    Constant, zero, denormal and huge groups give finite scales; what float16 cannot reach saturates. Raises BadInput,
    with their number, when values are infinite or not a number.
    """
    found = encoding(name)
    coded = found.kind in ("sym", "aff", "table", "two_four")
    need(coded, f"values are rounded to symB, affB, a table or 2:4, not {name}")
    if found.kind == "table":
        return round_table(finite(values), found, search)
    rows, columns = values.shape
    groups = found.num_groups(columns)
    codes = np.full((rows, groups * _GROUP), zero_code(found), np.uint8)
    d = np.empty((rows, groups), np.float16)
    m = np.empty((rows, groups), np.float16) if found.kind == "aff" else None
    result = Codes(codes, d, m)
    whole = columns // _GROUP * _GROUP
    step = rounding_rows(columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        for first, stop in ((0, whole), (whole, columns)):
            if first < stop:
                grouped = _grouped(values[part, first:stop])
                if grouped is None:
                    _refuse(values)
                else:
                    _round_part(grouped, found, search, result, part, first, stop)
    return result


def finite(values: Floats) -> Floats:
    """The values, none of them beyond what any format reaches."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        _refuse(values)
    return values if max(-low, high) <= _SATURATED else np.clip(values, -_SATURATED, _SATURATED)


def _grouped(values: Floats) -> Floats | None:
    """[n, whole groups or one shorter group] as [columns of a group, groups], or None where something is not finite."""
    width = min(_GROUP, values.shape[1])
    grouped = np.ascontiguousarray(values.reshape(-1, width).T)
    low, high = float(grouped.min()), float(grouped.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    if max(-low, high) > _SATURATED:
        np.clip(grouped, -_SATURATED, _SATURATED, out=grouped)
    return grouped


def _refuse(values: Floats) -> None:
    lost = sum(int(np.count_nonzero(~np.isfinite(row))) for row in values)
    raise BadInput(f"{lost} of {values.size} weights are infinite or not a number; they cannot be rounded")


def _round_part(
    grouped: Floats, found: Encoding, search: bool, result: Codes, part: slice, first: int, stop: int
) -> None:
    span = slice(first // _GROUP, -(-stop // _GROUP))
    rounder = _Rounder(grouped, found.code_bits, np.empty_like(grouped), np.empty_like(grouped))
    if result.m is None:
        scale, codes = rounder.sym(search)
    else:
        scale, offset, codes = rounder.aff(search)
        result.m[part, span] = offset.reshape(-1, span.stop - span.start)
    result.d[part, span] = scale.reshape(-1, span.stop - span.start)
    result.codes[part, first:stop] = codes.T.reshape(-1, stop - first)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, and 0 where the denominator is 0."""
    result = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 for scales so small that float16 has only 0 for them."""
    result = np.zeros_like(scale)
    np.divide(np.float32(1), scale, out=result, where=np.abs(scale) > _VANISHING)
    return result


def _half(values: Floats) -> Floats:
    """Values as float16 stores them, saturated, in float32."""
    return np.clip(values, -_HALF_MAX, _HALF_MAX).astype(np.float16).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Rounder:
    """Groups along the second axis of `w`, with two buffers of its shape for everything that is as large as it."""

    w: Floats
    bits: int
    q: Floats
    spare: Floats

    def sym(self, search: bool) -> tuple[Halves, NDArray[np.uint8]]:
        """Scales float16 [n] and codes."""
        bound = 1 << (self.bits - 1)
        low, high = self.w.min(axis=0), self.w.max(axis=0)
        extreme = np.where(high > -low, high, low) * np.float32(-1 / bound)
        d = _half(extreme)
        if search:
            self._place(self.w, d, -bound, bound - 1)
            plain = self._error(self.w, d)
            fitted = _half(self._best_sym(extreme, bound))
            self._place(self.w, fitted, -bound, bound - 1)
            d = np.where(self._error(self.w, fitted) < plain, fitted, d)
        self._place(self.w, d, -bound, bound - 1)
        np.add(self.q, np.float32(bound), out=self.q)
        return d.astype(np.float16), self.q.astype(np.uint8)

    def aff(self, search: bool) -> tuple[Halves, Halves, NDArray[np.uint8]]:
        """Scales and minima float16 [n], and codes."""
        top = (1 << self.bits) - 1
        low, high = self.w.min(axis=0), self.w.max(axis=0)
        m = _half(low)
        d = _half((high - m) / np.float32(top))
        # Where float16 rounded the minimum down from a constant group, a scale of 0 leaves just the minimum.
        np.maximum(d, 0, out=d)
        if search:
            plain = self._aff_error(d, m, top)
            fitted_d, fitted_m = self._best_aff(low, high, top)
            better = self._aff_error(fitted_d, fitted_m, top) < plain
            d, m = np.where(better, fitted_d, d), np.where(better, fitted_m, m)
        np.subtract(self.w, m, out=self.spare)
        self._place(self.spare, d, 0, top)
        return d.astype(np.float16), m.astype(np.float16), self.q.astype(np.uint8)

    def _place(self, w: Floats, d: Floats, low: int, high: int) -> None:
        """q = the code nearest to w / d."""
        np.multiply(w, _inverse(d), out=self.q)
        np.rint(self.q, out=self.q)
        np.clip(self.q, low, high, out=self.q)

    def _error(self, w: Floats, d: Floats) -> Floats:
        """Squared error of q * d, summed over each group. Spends both buffers; `w` may be `spare`."""
        np.multiply(self.q, d, out=self.q)
        np.subtract(w, self.q, out=self.spare)
        np.multiply(self.spare, self.spare, out=self.spare)
        return np.asarray(self.spare.sum(axis=0))

    def _aff_error(self, d: Floats, m: Floats, top: int) -> Floats:
        np.subtract(self.w, m, out=self.spare)
        self._place(self.spare, d, 0, top)
        return self._error(self.spare, d)

    def _best_sym(self, extreme: Floats, bound: int) -> Floats:
        """The least-squares scale of the clipped range that explains most, which is (q . w)^2 / (q . q)."""
        best, scale = np.zeros_like(extreme), np.zeros_like(extreme)
        for factor in _SYM_RANGES:
            self._place(self.w, extreme * np.float32(factor), -bound, bound - 1)
            np.multiply(self.q, self.w, out=self.spare)
            along = self.spare.sum(axis=0)
            np.multiply(self.q, self.q, out=self.spare)
            fit = _ratio(along, self.spare.sum(axis=0))
            explained = along * fit
            better = explained > best
            np.copyto(best, explained, where=better)
            np.copyto(scale, fit, where=better)
        return scale

    def _best_aff(self, low: Floats, high: Floats, top: int) -> tuple[Floats, Floats]:
        """Scale and minimum, as float16 stores them, by least squares around each group's mean."""
        share = np.float32(1 / len(self.w))
        mean = self.w.sum(axis=0) * share
        best, scale, centre = np.zeros_like(low), np.zeros_like(low), np.zeros_like(low)
        for factor in _AFF_RANGES:
            middle = low * np.float32(0.5 + factor / 2) + high * np.float32(0.5 - factor / 2)
            np.subtract(self.w, middle, out=self.spare)
            self._place(self.spare, (high - low) * np.float32(factor / top), 0, top)
            code_mean = self.q.sum(axis=0) * share
            np.subtract(self.q, code_mean, out=self.q)
            np.subtract(self.w, mean, out=self.spare)
            np.multiply(self.spare, self.q, out=self.spare)
            along = self.spare.sum(axis=0)
            np.multiply(self.q, self.q, out=self.spare)
            fit = _ratio(along, self.spare.sum(axis=0))
            better = along * fit > best
            np.copyto(best, along * fit, where=better)
            np.copyto(scale, fit, where=better)
            np.copyto(centre, code_mean, where=better)
        d = _half(scale)
        return d, _half(mean - d * centre)
