"""The space of plans: for each facet and target, the settings that techniques offer here; None where none is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from pintpot.contract.step import GENTLER, Facet, Step
from pintpot.errors import NotApplicable
from pintpot.planner.calibrating import calibrating_bytes, no_room
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
class Offer:
    """A step that a technique offers: `reason` against it, "" for none, and the least memory in which it is packed."""

    step: Step
    reason: str = ""
    packing_bytes: int = 0

    def reason_in(self, memory_bytes: int) -> str:
        """Why it cannot be had in so much memory; "" where it can."""
        short = self.packing_bytes > memory_bytes
        return self.reason or (no_room(self.packing_bytes, memory_bytes) if short else "")


@dataclass(frozen=True)
class Space:
    """All dimensions but the place, which the allocation solves, of the offers that can be had.

    `ways` are the ways to round: of all choices that differ in nothing else, one is looked at.
    """

    dimensions: tuple[Dimension, ...]
    places: tuple[Step, ...]
    offers: tuple[Offer, ...]
    ways: Ways = ((),)

    @property
    def size(self) -> int:
        """The number of hopeful choices."""
        return prod(len(dimension.hopeful) for dimension in self.dimensions)

    def ruled_out(self, memory_bytes: int) -> tuple[Rejected, ...]:
        """What was ruled out before any pricing, with the reason in so much memory."""
        reasons = ((offer.step, offer.reason_in(memory_bytes)) for offer in self.offers)
        return tuple(Rejected(str(step), reason, step=step) for step, reason in reasons if reason)

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


def all_offers(question: Question) -> tuple[Offer, ...]:
    """Every offer of every technique, those that do not apply to the model with their reason."""
    return tuple(
        _offer(question, step)
        for cls in classes().values()
        for step in whole(question, cls.offers(question.model, question.machine, question.budget))
    )


def build_space(question: Question, offers: Sequence[Offer] | None = None, memory_bytes: int | None = None) -> Space:
    """What can be had in so much memory: in that of the budget, of all offers."""
    memory = question.budget.memory_bytes if memory_bytes is None else memory_bytes
    offers = all_offers(question) if offers is None else offers
    found: dict[tuple[Facet, str], list[Option]] = {}
    places: list[Step] = []
    for step in (offer.step for offer in offers if not offer.reason_in(memory)):
        if step.facet == Facet.PLACE:
            places.append(step)
        else:
            found.setdefault((step.facet, step.target), []).append(step)
    chosen = (options for (facet, _), options in found.items() if facet in GENTLER and facet != Facet.WEIGHING)
    # What counts rows is offered to those who asked for it alone: wherever rows are looked at, it is taken.
    asked = [step for (facet, _), options in found.items() if facet == Facet.WEIGHING for step in options if step]
    ways = tuple((*asked, *way) if way else way for way in ways_of(chosen))
    if question.sensitivities is not None:
        formats = found.setdefault((Facet.FORMAT, "all"), [])
        way = gentlest(question.expects, (step for step in formats if step is not None), ways)
        formats.extend(mixtures(question, way))
    dimensions = tuple(dimension_of(question, *key, found[key], ways) for key in sorted(found))
    return Space(dimensions, tuple(places), tuple(offers), ways)


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


def _offer(question: Question, step: Step) -> Offer:
    if step.facet == Facet.PLACE:
        return Offer(step)
    try:
        if step.facet == Facet.FORMAT:
            step.check(question.model, question.expects.source)
        packing = calibrating_bytes(question, (step,)) if step.facet in GENTLER else 0
        expected((step,), question.expects, question.measured, question.budget.below_4_bits)
    except NotApplicable as reason:
        return Offer(step, str(reason))
    return Offer(step, packing_bytes=packing)


def _prior(question: Question, option: Option) -> float:
    return question.expects.of(option)[1]


def _may_keep(question: Question, option: Option, ways: Ways) -> bool:
    """Whether some plan with this option may keep the budget's degradation: as expected, or as measured."""
    limit = question.budget.degradation
    if any(question.expects.of(option, way)[1] <= limit for way in ways):
        return True
    return any(str(option) in key.split("; ") and known.high <= limit for key, known in question.measured.items())
