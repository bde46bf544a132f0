"""The space of plans: for each facet and target, the settings that techniques offer here; None where none is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from pintpot.contract.form import source_form
from pintpot.contract.step import GENTLER, Facet, Step
from pintpot.errors import DoesNotFit, NotApplicable
from pintpot.planner.calibrating import check_calibrating
from pintpot.planner.degradation import expected
from pintpot.planner.dominance import undominated
from pintpot.planner.gentle import Ways, gentlest, ways_of
from pintpot.planner.mixtures import mixtures, whole
from pintpot.planner.plan import Rejected
from pintpot.planner.question import Question
from pintpot.techniques import classes

NEEDED = (Facet.FORMAT, Facet.BATCHING)
"""Facets that every plan must decide; the others may be left alone."""
Option = Step | None
Choice = tuple[Option, ...]


@dataclass(frozen=True)
class Dimension:
    """What can be chosen for one facet of one target; exactly one option is.

    `hopeful` are the options that may keep the budget's degradation, and of formats those that no other one beats in
    everything; the others are priced only to say what they cost.
    """

    facet: Facet
    target: str
    options: tuple[Option, ...]
    hopeful: tuple[Option, ...]
    mildest: Option


@dataclass(frozen=True)
class Space:
    """All dimensions but the place, which the allocation solves; and what was ruled out before any pricing.

    `ways` are the ways to round: of all choices that differ in nothing else, one is looked at.
    """

    dimensions: tuple[Dimension, ...]
    places: tuple[Step, ...]
    ruled_out: tuple[Rejected, ...]
    ways: Ways = ((),)

    @property
    def size(self) -> int:
        """The number of hopeful choices."""
        return prod(len(dimension.hopeful) for dimension in self.dimensions)

    def rounded(self, choice: Choice, way: Sequence[Step]) -> Choice:
        """A choice with this way of rounding in place of its own."""
        steps = {(step.facet, step.target): step for step in way}
        return tuple(
            steps.get((dimension.facet, dimension.target)) if dimension.facet in GENTLER else option
            for dimension, option in zip(self.dimensions, choice, strict=True)
        )

    def all(self) -> Iterator[Choice]:
        return product(*(dimension.options for dimension in self.dimensions))

    def hopeful(self) -> Iterator[Choice]:
        return product(*(dimension.hopeful for dimension in self.dimensions))

    def mildest(self) -> Choice:
        """The choice that changes the model least: where a search by small changes begins."""
        return tuple(dimension.mildest for dimension in self.dimensions)


def build_space(question: Question) -> Space:
    """Every offer of every technique that applies to the model."""
    offers: dict[tuple[Facet, str], list[Option]] = {}
    places: list[Step] = []
    ruled_out: list[Rejected] = []
    for cls in classes().values():
        for step in whole(question, cls.offers(question.model, question.machine, question.budget)):
            if step.facet == Facet.PLACE:
                places.append(step)
                continue
            reason = _reason_against(question, step)
            if reason is None:
                offers.setdefault((step.facet, step.target), []).append(step)
            else:
                ruled_out.append(Rejected(str(step), reason, step=step))
    ways = ways_of(found for (facet, _), found in offers.items() if facet in GENTLER)
    if question.sensitivities is not None:
        formats = offers.setdefault((Facet.FORMAT, "all"), [])
        way = gentlest(question.expects, (step for step in formats if step is not None), ways)
        formats.extend(mixtures(question, way))
    dimensions = tuple(dimension_of(question, *key, offers[key], ways) for key in sorted(offers))
    return Space(dimensions, tuple(places), tuple(ruled_out), ways)


def dimension_of(
    question: Question, facet: Facet, target: str, offers: Sequence[Option], ways: Ways = ((),)
) -> Dimension:
    """What can be chosen where these are offered: one of them, or nothing where nothing is needed.

    `ways` are those of rounding to what a format promises. They are no axis: nothing stands for all of them.
    """
    options = (*offers, None) if facet not in NEEDED else tuple(offers)
    if facet in GENTLER:
        return Dimension(facet, target, options, (None,), None)
    hopeful = [option for option in options if _may_keep(question, option, ways)]
    if facet == Facet.FORMAT:
        hopeful = undominated(question, [option for option in hopeful if option is not None], ways)
    mildest = min(hopeful or options, key=lambda option: _prior(question, option))
    return Dimension(facet, target, options, tuple(hopeful), mildest)


def _reason_against(question: Question, step: Step) -> str | None:
    try:
        if step.facet == Facet.FORMAT:
            step.check(question.model, source_form(question.model))
        if step.facet in GENTLER:
            check_calibrating(question, (step,))
        expected((step,), question.expects, question.measured, question.budget.below_4_bits)
    except (NotApplicable, DoesNotFit) as reason:
        return str(reason)
    return None


def _prior(question: Question, option: Option) -> float:
    return question.expects.of(option)[1]


def _may_keep(question: Question, option: Option, ways: Ways) -> bool:
    """Whether some plan with this option may keep the budget's degradation: as expected, or as measured."""
    limit = question.budget.degradation
    if any(question.expects.of(option, way)[1] <= limit for way in ways):
        return True
    return any(str(option) in key.split("; ") and known.high <= limit for key, known in question.measured.items())
