"""The space of plans: for each facet and target, the settings that techniques offer here; None where none is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

from pintpot.contract.form import source_form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable
from pintpot.planner.degradation import expected
from pintpot.planner.plan import Rejected
from pintpot.planner.question import Question
from pintpot.techniques import classes

NEEDED = (Facet.FORMAT, Facet.BATCHING)
"""Facets that every plan must decide; the others may be left alone."""
Choice = tuple[Step | None, ...]


@dataclass(frozen=True)
class Dimension:
    """What can be chosen for one facet of one target; exactly one option is."""

    facet: Facet
    target: str
    options: tuple[Step | None, ...]


@dataclass(frozen=True)
class Space:
    """All dimensions but the place, which the allocation solves; and what was ruled out before any pricing."""

    dimensions: tuple[Dimension, ...]
    places: tuple[Step, ...]
    ruled_out: tuple[Rejected, ...]

    @property
    def size(self) -> int:
        return prod(len(dimension.options) for dimension in self.dimensions)

    def all(self) -> Iterator[Choice]:
        return product(*(dimension.options for dimension in self.dimensions))

    def first(self) -> Choice:
        return tuple(dimension.options[0] for dimension in self.dimensions)


def build_space(question: Question) -> Space:
    """Every offer of every technique that applies and keeps the budget's degradation by itself."""
    offers: dict[tuple[Facet, str], list[Step | None]] = {}
    places: list[Step] = []
    ruled_out: list[Rejected] = []
    for cls in classes().values():
        for step in cls.offers(question.model, question.machine, question.budget):
            if step.facet == Facet.PLACE:
                places.append(step)
                continue
            reason = _reason_against(question, step)
            if reason is None:
                offers.setdefault((step.facet, step.target), []).append(step)
            else:
                ruled_out.append(Rejected(str(step), reason, step=step))
    for (facet, _), options in offers.items():
        if facet not in NEEDED:
            options.append(None)
    dimensions = tuple(Dimension(facet, target, tuple(offers[facet, target])) for facet, target in sorted(offers))
    return Space(dimensions, tuple(places), tuple(ruled_out))


def _reason_against(question: Question, step: Step) -> str | None:
    try:
        if step.facet == Facet.FORMAT:
            step.check(question.model, source_form(question.model))
        degradation = expected((step,), question.priors, question.measured, question.budget.below_4_bits)
    except NotApplicable as reason:
        return str(reason)
    # A measurement of the whole plan may be better than the sum of its priors, so only hopeless steps go here.
    if degradation.low > question.budget.degradation:
        return f"degradation of at least {degradation.low:.3g} nats, the limit is {question.budget.degradation:g}"
    return None
