"""Gentler rounding: of the steps that make formats do less harm, those that leave least of it.

They cost no bytes and no seconds of a run, only time before packing, so they are no axis of the search: a choice of
formats has the ones that leave it least, and none where they would leave it all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from pintpot.contract.form import WeightForm
from pintpot.contract.step import Step
from pintpot.formats import KERNEL_FORMATS
from pintpot.planner.degradation import Expectations, rounding_key
from pintpot.planner.sensitivity import share

Ways = tuple[tuple[Step, ...], ...]
_WEIGHTS = ("layers.0.q", "layers.0.down", "embed", "head")
"""Weights of all kinds that steps tell apart."""


def ways_of(offers: Iterable[Sequence[Step | None]]) -> Ways:
    """The ways to take one or none of each dimension's offers, but those that leave more of every weight than another.

    The first is to do nothing; those of fewer steps come before those of more.
    """
    taken = {tuple(step for step in taken if step is not None) for taken in product(*((*o, None) for o in offers))}
    ways = sorted(taken, key=lambda steps: (len(steps), rounding_key(steps)))
    left = [_left(way) for way in ways]

    def beaten(index: int) -> bool:
        return any(
            all(a <= b for a, b in zip(left[other], left[index], strict=True))
            and (left[other], other) < (left[index], index)
            for other in range(1, len(ways))
            if other != index
        )

    return tuple(way for index, way in enumerate(ways) if not way or not beaten(index))


def gentlest(known: Expectations, formats: Iterable[Step], ways: Ways) -> tuple[Step, ...]:
    """The way of rounding in which these steps of formats lose least, judged by the high end first."""
    steps = tuple(formats)

    def loss(way: tuple[Step, ...]) -> tuple[float, float]:
        spans = [known.of(step, way) for step in steps]
        return sum(high for _, high in spans), sum(low for low, _ in spans)

    return min(ways, key=loss)


def _left(way: tuple[Step, ...]) -> list[tuple[float, float]]:
    weights = (WeightForm(name, (64, 64), "f32", kept, 64, True) for name in _WEIGHTS for kept in KERNEL_FORMATS)
    return [share(way, weight)[::-1] for weight in weights]
