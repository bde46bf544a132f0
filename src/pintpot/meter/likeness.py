"""METER: how like two models' answers are where these are no words: cosine, noise, and the largest value's place.

Inputs lie side by side along the first axis of an answer; each has a cosine of its own, so that their mean has an
interval. Pure functions of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pintpot.errors import need
from pintpot.meter.agreement import Interval, mean_interval, psnr

_ROUNDING = 1e-12
"""A cosine of float64 sums lies no nearer to its true value than a fraction of this; less than it is nothing."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """One output of a model beside the same of the unpacked one, over `num_inputs`.

    `lacking` is 1 minus the cosine, its mean over inputs with the 95% interval; of fewer than three it reaches from the
    mean to the largest. `psnr_db` has the reference's largest absolute value as its peak; `top1` is the share of rows
    of the last axis with the same largest value.
    """

    output: str
    num_inputs: int
    lacking: Interval
    psnr_db: float
    top1: float


def likeness(output: str, reference: ArrayLike, test: ArrayLike) -> Likeness:
    """How like an output [inputs, ...] is to the reference's. Raises BadInput for other shapes or values of no size."""
    a, b = np.asarray(reference, np.float64), np.asarray(test, np.float64)
    need(a.shape == b.shape and a.size > 0, f"{output}: answers of one shape are compared, not {a.shape} and {b.shape}")
    rows, others = (one.reshape(one.shape[0] if one.ndim > 1 else 1, -1) for one in (a, b))
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    need(bool((norms > 0).all()), f"{output}: the cosine of an answer of zeros is not defined")
    found = 1 - (rows * others).sum(axis=1) / norms
    found = np.where(found < _ROUNDING, 0.0, found)
    mean = float(found.mean())
    span = (
        mean_interval([[one] for one in found], floor=0.0)
        if found.size >= 3
        else Interval(mean, mean, float(found.max()))
    )
    last = [one.reshape(-1, one.shape[-1] if one.ndim else 1) for one in (a, b)]
    same = float((last[0].argmax(axis=1) == last[1].argmax(axis=1)).mean())
    return Likeness(output, len(found), span, psnr(a, b, float(np.abs(a).max())), same)
