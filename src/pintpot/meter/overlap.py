"""METER: how far two models agree on what they say of a picture or a text: the class, its probability, boxes.

Pure functions of arrays. Boxes are [left, top, right, bottom].
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pintpot.errors import need

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreed:
    """A measure of agreement: its mean over `count` inputs; a share, 1 where both say the same, if it has no unit."""

    what: str
    mean: float
    count: int
    unit: str = ""

    @property
    def told(self) -> str:
        """For people."""
        return f"{self.mean:.3g} {self.unit}" if self.unit else f"{self.mean:.4%}"


def together(found: Iterable[Agreed]) -> tuple[Agreed, ...]:
    """Measures of many batches as one, each by its name; those over no input are left out."""
    listed = [one for one in found if one.count]
    names = {one.what: one.unit for one in listed}
    sums = {name: [(one.mean * one.count, one.count) for one in listed if one.what == name] for name in names}
    totals = {name: (sum(part for part, _ in parts), sum(count for _, count in parts)) for name, parts in sums.items()}
    return tuple(Agreed(name, total / count, count, names[name]) for name, (total, count) in totals.items())


def cosines(reference: ArrayLike, test: ArrayLike) -> Floats:
    """The cosine of each row of [n, ...] beside the same of the other. Raises BadInput for other shapes or zeros."""
    a, b = _rows(reference, test)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    need(bool((norms > 0).all()), "the cosine of a row of zeros is not defined")
    return np.asarray((a * b).sum(axis=1) / norms)


def same_top(reference: ArrayLike, test: ArrayLike) -> Floats:
    """Of each row [n, classes] 1 where both have their largest value at the same class, else 0."""
    a, b = _rows(reference, test)
    return np.asarray(a.argmax(axis=1) == b.argmax(axis=1), np.float64)


def shared_probability(reference: ArrayLike, test: ArrayLike) -> Floats:
    """Of each row of logits [n, classes] 1 minus the total variation distance of the two distributions."""
    a, b = (softmax(rows) for rows in _rows(reference, test))
    return np.asarray(np.minimum(a, b).sum(axis=1))


def softmax(logits: ArrayLike) -> Floats:
    """Probabilities over the last axis."""
    found = np.asarray(logits, np.float64)
    powers = np.exp(found - found.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def intersection_over_union(one: ArrayLike, other: ArrayLike) -> Floats:
    """Of boxes [n, 4] and [m, 4] their overlap [n, m], between 0 and 1."""
    a, b = np.asarray(one, np.float64)[:, None], np.asarray(other, np.float64)[None]
    inside = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    areas = [np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(-1) for boxes in (a, b)]
    union = areas[0] + areas[1] - inside
    return np.asarray(np.divide(inside, union, out=np.zeros_like(inside), where=union > 0))


def matched_overlap(boxes: ArrayLike, labels: ArrayLike, others: ArrayLike, their_labels: ArrayLike) -> Floats:
    """Of each box [n, 4] of the reference its overlap with the box of the same label that is matched to it.

    Pairs are matched from the largest overlap down, each box once; a box without a partner overlaps by 0.
    """
    matched = np.zeros(len(np.asarray(boxes)))
    if matched.size == 0 or len(np.asarray(others)) == 0:
        return matched
    overlap = intersection_over_union(boxes, others)
    overlap[np.asarray(labels)[:, None] != np.asarray(their_labels)[None]] = 0.0
    while overlap.max() > 0:
        at, partner = np.unravel_index(overlap.argmax(), overlap.shape)
        matched[at] = overlap[at, partner]
        overlap[at, :] = overlap[:, partner] = 0.0
    return matched


def _rows(reference: ArrayLike, test: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(reference, np.float64), np.asarray(test, np.float64)
    need(a.shape == b.shape and a.size > 0, f"answers of one shape are compared, not {a.shape} and {b.shape}")
    return a.reshape(len(a), -1), b.reshape(len(b), -1)
