"""The choice of a plan: each is weighed by what it could be at best, and placed and priced while it may still win.

Greedy and search go through the same `Bench`, the one road from steps to a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations

from pintpot.budget import Budget, Prefer
from pintpot.errors import DoesNotFit, NotApplicable
from pintpot.planner.allocate import Placing, place
from pintpot.planner.assess import Bench, Draft, shortfall
from pintpot.planner.plan import Plan
from pintpot.planner.space import Choice, Dimension, Space

EXHAUSTIVE = 1200
"""Spaces up to this size are searched whole; in larger ones, one or two choices are changed at a time."""

Rank = tuple[float, ...]


@dataclass
class Search:
    """Everything tried so far in `memory_bytes`: plans that keep the budget, and why the other choices do not."""

    bench: Bench
    space: Space
    memory_bytes: int
    plans: dict[Choice, Plan] = field(default_factory=dict)
    failures: dict[Choice, str] = field(default_factory=dict)
    nearest: dict[Choice, Plan] = field(default_factory=dict)
    _best: tuple[Rank, Choice] | None = None

    @property
    def budget(self) -> Budget:
        return self.bench.question.budget

    def try_choice(self, choice: Choice) -> Plan | None:
        """The plan of a choice, None when it breaks a limit; remembered either way."""
        if choice not in self.plans and choice not in self.failures:
            try:
                self._settle(choice, self._placed(choice).plan(self.bench))
            except (NotApplicable, DoesNotFit) as error:
                self.failures[choice] = str(error)
        return self.plans.get(choice)

    def try_all(self, choices: Iterable[Choice]) -> None:
        """Every choice that could be better than the best one found, the most promising first."""
        hopes = [(hope, index, choice) for index, choice in enumerate(choices) if (hope := self.hope(choice))]
        for hope, _, choice in sorted(hopes, key=lambda item: item[:2]):
            if self._best is not None and hope >= self._best[0]:
                return
            self.try_choice(choice)

    def hope(self, choice: Choice) -> Rank | None:
        """The best rank that the plan of a choice could have, None where it surely breaks a limit."""
        try:
            placing = self._placed(choice, hopeless=self.budget.degradation)
        except (NotApplicable, DoesNotFit):
            return None
        budget, late = self.budget, placing.first_token_s.high
        if budget.first_token_s is not None and late > budget.first_token_s:
            return None
        if budget.per_token_s is not None and placing.per_token_s.high > budget.per_token_s:
            return None
        memory = placing.draft.whole_bytes if placing.place is None else 0
        return _rank(placing.total_s.mid, placing.draft.degradation.high, memory, budget.prefer)

    def best(self) -> tuple[Choice, Plan] | None:
        return None if self._best is None else (self._best[1], self.plans[self._best[1]])

    def drafts(self) -> Iterator[tuple[Choice, Draft]]:
        """Every choice of the space that may keep the budget's degradation, unless there are too many to look at."""
        for choice in self.space.hopeful() if self.space.size <= EXHAUSTIVE else tuple(self.plans):
            try:
                yield choice, self._draft(choice, self.budget.degradation)
            except (NotApplicable, DoesNotFit):
                continue

    def _draft(self, choice: Choice, most: float | None = None) -> Draft:
        steps = [step for step in choice if step is not None]
        if most is not None and self.bench.degradation(steps).high > most:
            raise DoesNotFit(f"degradation beyond {most:g} nats")
        return self.bench.draft(steps)

    def _placed(self, choice: Choice, hopeless: float | None = None) -> Placing:
        return place(self.bench, self._draft(choice, hopeless), self.space.places, self.memory_bytes)

    def _settle(self, choice: Choice, plan: Plan) -> None:
        short = shortfall(plan, self.memory_bytes)
        if short is not None:
            self.failures[choice] = short
            self.nearest[choice] = plan
            return
        self.plans[choice] = plan
        found = rank(plan, self.budget.prefer)
        if self._best is None or found < self._best[0]:
            self._best = (found, choice)


def rank(plan: Plan, prefer: Prefer) -> Rank:
    """Sort key, smaller is better; later entries break ties."""
    return _rank(plan.cost.total_s.mid, plan.degradation.high, plan.cost.memory_high, prefer)


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
    if search.space.size <= EXHAUSTIVE:
        search.try_all(search.space.hopeful())
        return search.best()
    greedy(search)
    return _descend(search, _two_changes)


Neighbours = Callable[[tuple[Dimension, ...], Choice], Iterator[Choice]]


def _descend(search: Search, neighbours: Neighbours) -> tuple[Choice, Plan] | None:
    """From the best choice so far to the best of its neighbours, until none is better."""
    dimensions = search.space.dimensions
    while True:
        before = search.best()
        search.try_all(neighbours(dimensions, before[0] if before else search.space.first()))
        after = search.best()
        if after is None or (before is not None and after[0] == before[0]):
            return after


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
