"""Greedy and search over the space of plans; both go through `place`, and so through the one `assess`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations

from pintpot.budget import Prefer
from pintpot.errors import DoesNotFit, NotApplicable
from pintpot.planner.allocate import TooLarge, place
from pintpot.planner.assess import shortfall
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.space import Choice, Space

EXHAUSTIVE = 64
"""Spaces up to this size are enumerated; larger ones are searched by changing one or two choices at a time."""


@dataclass
class Search:
    """Everything tried so far, by choice: a plan that keeps the budget, or why there is none."""

    question: Question
    space: Space
    plans: dict[Choice, Plan] = field(default_factory=dict)
    failures: dict[Choice, str] = field(default_factory=dict)
    smallest_bytes: int | None = None
    nearest: dict[Choice, Plan] = field(default_factory=dict)

    def better(self, one: Plan, other: Plan) -> bool:
        return rank(one, self.question.budget.prefer) < rank(other, self.question.budget.prefer)

    def try_choice(self, choice: Choice) -> Plan | None:
        """The plan of a choice, None when it breaks a limit; remembered either way."""
        if choice in self.plans:
            return self.plans[choice]
        if choice in self.failures:
            return None
        try:
            plan = place(self.question, choice, self.space.places)
        except TooLarge as error:
            self.smallest_bytes = min(self.smallest_bytes or error.smallest_bytes, error.smallest_bytes)
            self.failures[choice] = str(error)
            return None
        except (NotApplicable, DoesNotFit) as error:
            self.failures[choice] = str(error)
            return None
        short = shortfall(plan)
        if short is not None:
            self.failures[choice] = short
            self.nearest[choice] = plan
            return None
        self.plans[choice] = plan
        return plan

    def best(self) -> tuple[Choice, Plan] | None:
        if not self.plans:
            return None
        choice = min(self.plans, key=lambda item: rank(self.plans[item], self.question.budget.prefer))
        return choice, self.plans[choice]


def rank(plan: Plan, prefer: Prefer) -> tuple[float, ...]:
    """Sort key, smaller is better; later entries break ties."""
    seconds, quality, memory = plan.cost.total_s.mid, plan.degradation.high, float(plan.cost.memory_high)
    orders = {
        "speed": (seconds, quality, memory),
        "quality": (quality, seconds, memory),
        "memory": (memory, seconds, quality),
    }
    return orders[prefer]


def exhaustive(search: Search) -> tuple[Choice, Plan] | None:
    """Every choice of the space."""
    for choice in search.space.all():
        search.try_choice(choice)
    return search.best()


def greedy(search: Search, start: Choice | None = None) -> tuple[Choice, Plan] | None:
    """One dimension after the other, keeping the best option each time, until a round changes nothing."""
    return _descend(search, start or search.space.first(), _one_change)


def joint(search: Search) -> tuple[Choice, Plan] | None:
    """Greedy, then changes of two dimensions at once until none helps; small spaces are enumerated.

    Where the best option of every dimension fits beside the best of the others, choices do not compete and greedy is
    already right; only where memory or another limit binds can two changes do what neither does alone.
    """
    if search.space.size <= EXHAUSTIVE:
        return exhaustive(search)
    start = greedy(search)
    if start is not None and not start[1].form.disk_bytes and not search.failures:
        return start
    return _descend(search, start[0] if start else search.space.first(), _two_changes)


Neighbours = Callable[[Space, Choice], Iterator[Choice]]


def _descend(search: Search, start: Choice, neighbours: Neighbours) -> tuple[Choice, Plan] | None:
    search.try_choice(start)
    while True:
        before = search.best()
        for choice in list(neighbours(search.space, before[0] if before else start)):
            search.try_choice(choice)
        after = search.best()
        if after is None or (before is not None and after[0] == before[0]):
            return after


def _one_change(space: Space, choice: Choice) -> Iterator[Choice]:
    for index, dimension in enumerate(space.dimensions):
        for option in dimension.options:
            yield (*choice[:index], option, *choice[index + 1 :])


def _two_changes(space: Space, choice: Choice) -> Iterator[Choice]:
    for i, j in combinations(range(len(space.dimensions)), 2):
        for one in space.dimensions[i].options:
            for two in space.dimensions[j].options:
                changed = list(choice)
                changed[i], changed[j] = one, two
                yield tuple(changed)
