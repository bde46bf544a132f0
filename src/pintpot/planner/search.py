"""The choice of a plan: each is weighed by what it could be at best, and placed and priced while it may still win.

Greedy and search go through the same `Bench`, the one road from steps to a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import combinations
from math import inf

from pintpot.budget import Budget, Prefer
from pintpot.contract.form import ActivationForm
from pintpot.contract.step import Facet, Step
from pintpot.errors import DoesNotFit, NotApplicable
from pintpot.planner.allocate import Placing, TooLarge, place, smallest_bytes
from pintpot.planner.assess import Bench, shortfall
from pintpot.planner.bits import Choices
from pintpot.planner.cost import Span
from pintpot.planner.degradation import gentler
from pintpot.planner.draft import Draft, Priced
from pintpot.planner.gentle import gentlest
from pintpot.planner.mixtures import choices, work_of
from pintpot.planner.plan import Plan
from pintpot.planner.price import PRICED_WITHIN
from pintpot.planner.space import Choice, Dimension, Space

EXHAUSTIVE = 2000
"""Spaces up to this size are searched whole; in larger ones, one or two choices are changed at a time."""

Rank = tuple[float, ...]
Drafted = tuple[Choice, Draft]


@dataclass
class Search:
    """Everything tried so far in `memory_bytes`: what keeps the budget, and why the other choices do not."""

    bench: Bench
    space: Space
    memory_bytes: int
    priced: dict[Choice, Priced] = field(default_factory=dict)
    failures: dict[Choice, str] = field(default_factory=dict)
    nearest: dict[Choice, Priced] = field(default_factory=dict)
    _best: tuple[Rank, Choice] | None = None
    _drafts: dict[Choice, Draft | None] = field(default_factory=dict)
    _whole: list[Drafted] = field(default_factory=list)
    tables: dict[tuple[int, ActivationForm, tuple[Step, ...]], Choices] = field(default_factory=dict)
    _rounded: dict[Choice, tuple[Step, ...]] = field(default_factory=dict)

    def within(self, memory_bytes: int) -> Search:
        """A search in another amount of memory, which begins with what does not depend on it."""
        return Search(
            self.bench,
            self.space,
            memory_bytes,
            _drafts=self._drafts,
            _whole=self._whole,
            tables=self.tables,
            _rounded=self._rounded,
        )

    def formats(self, made: Draft) -> Choices:
        """Of each weight the formats that it may have, priced as in this draft; {} where nothing is known of them."""
        gentle = gentler(made.steps)
        key = (made.prices.rates.footprint, made.form.activation, gentle)
        if key not in self.tables:
            question = self.bench.question
            self.tables[key] = choices(question, work_of(question, made.prices.rates, made.form.activation), gentle)
        return self.tables[key]

    def gently(self, choice: Choice) -> Choice:
        """A choice with the way of rounding in which it loses least: the same bytes and seconds, and better answers."""
        ways = self.space.ways
        if len(ways) == 1:
            return choice
        formats = tuple(step for step in choice if step is not None and step.facet == Facet.FORMAT)
        if any(str(step) in key for key in self.bench.question.measured for step in formats):
            return min((self.space.rounded(choice, way) for way in ways), key=self._loss)
        if formats not in self._rounded:
            self._rounded[formats] = gentlest(self.bench.question.expects, formats, ways)
        return self.space.rounded(choice, self._rounded[formats])

    def _loss(self, choice: Choice) -> float:
        try:
            return self.bench.degradation([step for step in choice if step is not None]).high
        except NotApplicable:
            return inf

    @property
    def budget(self) -> Budget:
        return self.bench.question.budget

    def try_choice(self, choice: Choice) -> Priced | None:
        """A choice at its price, None when it breaks a limit; remembered either way."""
        if choice not in self.priced and choice not in self.failures:
            try:
                made = self.bench.draft([step for step in choice if step is not None])
                self._settle(choice, place(self.bench, made, self.space.places, self.memory_bytes).price(self.bench))
            except (NotApplicable, DoesNotFit) as error:
                self.failures[choice] = str(error)
        return self.priced.get(choice)

    def try_all(self, drafted: Iterable[Drafted]) -> None:
        """Every choice that could be better than the best one found, the most promising first.

        First what its answers take is all that is known of a choice; its prompts are priced where that leaves a hope.
        """
        hopes: list[tuple[Rank, int, bool, Choice, Placing]] = []
        for number, (choice, made) in enumerate(drafted):
            placing = self._placing(made)
            if placing is not None and _keeps(placing.stage_s(-1), self.budget.per_token_s, made.stage(-1).replays):
                hopes.append((self._hope(placing, placing.stage_s(-1).mid), number, False, choice, placing))
        heapify(hopes)
        while hopes:
            hope, number, known, choice, placing = heappop(hopes)
            if self._best is not None and hope >= self._best[0]:
                return
            if known:
                self.try_choice(choice)
            elif _keeps(placing.stage_s(0), self.budget.first_token_s):
                hope = self._hope(placing, placing.seconds_mid)
                heappush(hopes, (hope, number, True, choice, placing))

    def _placing(self, made: Draft) -> Placing | None:
        try:
            return place(self.bench, made, self.space.places, self.memory_bytes)
        except TooLarge:
            return None

    def _hope(self, placing: Placing, seconds: float) -> Rank:
        """The best rank that a plan of no fewer seconds could have."""
        weighed = seconds * doubt(placing.draft.steps)
        return _rank(weighed, placing.draft.degradation.high, placing.least_bytes, self.budget.prefer)

    @property
    def best_choice(self) -> Choice | None:
        return None if self._best is None else self._best[1]

    def best(self) -> tuple[Choice, Plan] | None:
        """The best choice so far, and its plan."""
        return None if self._best is None else (self._best[1], self.bench.plan(self.priced[self._best[1]]))

    def draft(self, choice: Choice) -> Draft | None:
        """A choice without a place, None where a step does not apply or the degradation is beyond the budget's."""
        choice = self.gently(choice)
        if choice not in self._drafts:
            self._drafts[choice] = self._draft(choice)
        return self._drafts[choice]

    def drafts(self) -> list[Drafted]:
        """Those of the whole space; where it is too large, of the ways to the smallest and to what was looked at."""
        if self.space.size > EXHAUSTIVE:
            if not self._drafts:
                self._descend_to_smallest()
            return [(choice, made) for choice, made in self._drafts.items() if made is not None]
        if not self._whole:
            drafted = ((choice, self._draft(choice)) for choice in map(self.gently, self.space.hopeful()))
            self._whole += [(choice, made) for choice, made in drafted if made is not None]
        return self._whole

    def _descend_to_smallest(self) -> None:
        """From the first choice to that of its neighbours with the smallest floor, until none is smaller."""

        def floor(choice: Choice) -> float:
            made = self.draft(choice)
            return inf if made is None else smallest_bytes(self.bench, made, self.space.places)

        at = self.space.mildest()
        while True:
            best = min((at, *_two_changes(self.space.dimensions, at)), key=floor)
            if floor(best) >= floor(at):
                return
            at = best

    def _draft(self, choice: Choice) -> Draft | None:
        steps = [step for step in choice if step is not None]
        try:
            beyond = self.bench.degradation(steps).high > self.budget.degradation
            return None if beyond else self.bench.draft(steps)
        except NotApplicable:
            return None

    def _settle(self, choice: Choice, priced: Priced) -> None:
        short = shortfall(priced, self.memory_bytes)
        if short is not None:
            self.failures[choice] = short
            self.nearest[choice] = priced
            return
        self.priced[choice] = priced
        found = rank(priced, self.budget.prefer)
        if self._best is None or found < self._best[0]:
            self._best = (found, choice)


def rank(plan: Plan | Priced, prefer: Prefer) -> Rank:
    """Sort key, smaller is better; later entries break ties."""
    seconds = plan.cost.total_s.mid * doubt(plan.steps)
    return _rank(seconds, plan.degradation.high, plan.cost.memory_high, prefer)


def doubt(steps: Iterable[Step]) -> float:
    """What the seconds of a plan are taken for, beside those of one without steps that are there for memory."""
    return PRICED_WITHIN if any(step.for_memory for step in steps) else 1.0


def _keeps(seconds: Span, limit: float | None, times: int = 1) -> bool:
    return limit is None or seconds.high <= limit * times


def _rank(seconds: float, quality: float, memory: float, prefer: Prefer) -> Rank:
    orders = {
        "speed": (seconds, quality, memory),
        "quality": (quality, seconds, memory),
        "memory": (memory, seconds, quality),
    }
    return orders[prefer]


def exhaustive(search: Search) -> tuple[Choice, Plan] | None:
    """Every choice of the space, placed and priced in full: the yardstick of the others."""
    for choice in search.space.all():
        search.try_choice(choice)
    return search.best()


def greedy(search: Search) -> tuple[Choice, Plan] | None:
    """One dimension after the other, keeping the best option each time, until a round changes nothing."""
    return _descend(search, _one_change)


def joint(search: Search) -> tuple[Choice, Plan] | None:
    """The best of the whole space where it is small enough to weigh each choice; else by changing two at a time.

    Weighing a choice gives a bound that its plan cannot beat, so a choice whose bound is worse than a plan at hand is
    left out without a loss.
    """
    search.try_all(search.drafts())
    return search.best() if search.space.size <= EXHAUSTIVE else _descend(search, _two_changes)


Neighbours = Callable[[tuple[Dimension, ...], Choice], Iterator[Choice]]


def _descend(search: Search, neighbours: Neighbours) -> tuple[Choice, Plan] | None:
    """From the best choice so far to the best of its neighbours, until none is better."""
    dimensions = search.space.dimensions
    while True:
        before = search.best_choice
        near = neighbours(dimensions, before or search.space.mildest())
        gentle = map(search.gently, near)
        search.try_all((choice, made) for choice in gentle if (made := search.draft(choice)) is not None)
        if search.best_choice == before:
            return search.best()


def _one_change(dimensions: tuple[Dimension, ...], choice: Choice) -> Iterator[Choice]:
    yield choice
    for index, dimension in enumerate(dimensions):
        for option in dimension.hopeful:
            yield (*choice[:index], option, *choice[index + 1 :])


def _two_changes(dimensions: tuple[Dimension, ...], choice: Choice) -> Iterator[Choice]:
    for i, j in combinations(range(len(dimensions)), 2):
        for one in dimensions[i].hopeful:
            for two in dimensions[j].hopeful:
                changed = list(choice)
                changed[i], changed[j] = one, two
                yield tuple(changed)
