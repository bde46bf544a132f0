"""Bits where they buy most: one format for each weight, the best in one cost of those that keep limits in the others.

A multiple-choice knapsack. HiGHS (Huangfu and Hall 2018) solves it exactly where `highspy` is installed; without it the
lower convex hull of each weight's choices is walked (Everett 1963, doi:10.1287/opre.11.3.399), then what is left of
the limits is spent on single steps.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from operator import le
from typing import Literal

CostName = Literal["nats", "num_bytes", "seconds", "token_s"]
COSTS: tuple[CostName, ...] = ("nats", "num_bytes", "seconds", "token_s")
GAP = 1e-4
"""Of the best there can be, what a solution may be behind."""
WITHIN = 1e-9
MOST_NODES = 200
"""Nodes of the search, and not seconds: the same question gives the same answer on every machine."""
_BLENDS = (1.0, 0.0, 0.5, 0.25, 0.75, 0.1, 0.9)


@dataclass(frozen=True, slots=True)
class Kept:
    """One weight in one format: what it costs in quality (nats a token), bytes, seconds of the whole workload and
    seconds of each token."""

    format: str
    nats: float
    num_bytes: float
    seconds: float = 0.0
    token_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that all weights may cost together, to a billionth."""

    nats: float = inf
    num_bytes: float = inf
    seconds: float = inf
    token_s: float = inf

    @property
    def set(self) -> dict[CostName, float]:
        return {name: getattr(self, name) for name in COSTS if getattr(self, name) < inf}


@dataclass(frozen=True)
class Allocation:
    """A format for each weight; `exact` says that no other choice is better by more than a ten-thousandth."""

    kept: Mapping[str, Kept]
    exact: bool

    def total(self, cost: CostName) -> float:
        return _sum(self.kept, cost)

    @property
    def formats(self) -> dict[str, str]:
        return {name: one.format for name, one in self.kept.items()}


Choices = Mapping[str, Sequence[Kept]]
"""Of each weight, the formats that it may be kept in; never empty."""
Price = Callable[[Kept], float]


def has_solver() -> bool:
    """Whether `highspy` is installed."""
    return importlib.util.find_spec("highspy") is not None


def allocate(choices: Choices, minimise: CostName, limits: Limits, *, exactly: bool = True) -> Allocation | None:
    """The choice of least cost within the limits, None where none was found that keeps them.

    Exact where `exactly` and HiGHS is installed and ends within its nodes; else near: never beyond a limit.
    """
    limits = _binding(choices, limits)
    near = greedy(choices, minimise, limits)
    if (near is not None and near.exact) or not (exactly and has_solver()):
        return near
    from pintpot.planner.highs import solve

    found = solve(choices, minimise, limits, near)
    if found is None or (near is not None and near.total(minimise) <= found.total(minimise)):
        exact = found is not None and found.exact
        return None if near is None else Allocation(near.kept, exact)
    return found


def greedy(choices: Choices, minimise: CostName, limits: Limits) -> Allocation | None:
    """The best of a few walks along the convex hull, one for each blend of the limits.

    Each walk also gives a bound that no choice can be below; where the best is at the highest bound, it is exact.
    """
    bounded = limits.set
    best, bound = None, -inf
    for prices in _blends(bounded):
        found, least = _walk(choices, minimise, bounded, prices)
        bound = max(bound, least)
        if found is not None and (best is None or _sum(found, minimise) < _sum(best, minimise)):
            best = found
        if best is not None and _sum(best, minimise) <= bound * (1 + GAP):
            break
    if best is None:
        return None
    _spend(choices, minimise, bounded, best)
    return Allocation(best, _sum(best, minimise) <= bound * (1 + GAP))


def frontier(choices: Choices, cost: Price, most: Sequence[float]) -> list[dict[str, Kept]]:
    """For each of `most`, falling, the first choice on the lower convex hull that has no more nats than that.

    The hull is that of nats over a cost: for its cost each of its choices has the fewest nats there are. Where nothing
    has so few, it is the choice of fewest nats.
    """
    at, steps = _steps(choices, "nats", cost)
    nats, left, points = _sum(at, "nats"), iter(steps), []
    for limit in most:
        while nats > limit:
            step = next(left, None)
            if step is None:
                break
            name, after = step
            nats += after.nats - at[name].nats
            at[name] = after
        points.append(dict(at))
    return points


def keeps(totals: Mapping[CostName, float], bounded: Mapping[CostName, float]) -> bool:
    """Whether the limits are kept, to a billionth of each: sums of floats depend on their order."""
    return all(totals[name] <= limit * (1 + WITHIN) for name, limit in bounded.items())


def undominated(found: Iterable[Kept], costs: Sequence[CostName]) -> list[Kept]:
    """The choices but those that another one beats or equals in every cost; of equal ones the first stays."""
    rows = [(tuple([getattr(one, cost) for cost in costs]), index, one) for index, one in enumerate(found)]
    kept: list[tuple[tuple[float, ...], int, Kept]] = []
    for row in sorted(rows, key=lambda row: row[:2]):
        mine = row[0]
        if not any(all(map(le, other[0], mine)) for other in kept):
            kept.append(row)
    return [one for _, _, one in sorted(kept, key=lambda row: row[1])]


def _binding(choices: Choices, limits: Limits) -> Limits:
    """Without the limits that no choice breaks."""
    most = {name: sum(max(getattr(one, name) for one in found) for found in choices.values()) for name in limits.set}
    return Limits(**{name: limit for name, limit in limits.set.items() if most[name] > limit})


def _steps(choices: Choices, minimise: CostName, cost: Price) -> tuple[dict[str, Kept], list[tuple[str, Kept]]]:
    """The cheapest choice, and the changes of single weights along their hulls, the one that gains most first."""
    start: dict[str, Kept] = {}
    steps: list[tuple[float, str, float, Kept]] = []
    for name, found in choices.items():
        hull = _hull([(cost(one), getattr(one, minimise), one) for one in found])
        start[name] = hull[0][2]
        steps += [((b - c) / (d - a), name, d, after) for (a, b, _), (d, c, after) in pairwise(hull)]
    # A hull is convex, so a weight's own steps stay in their order.
    steps.sort(key=lambda step: (-step[0], step[1], step[2]))
    return start, [(name, after) for _, name, _, after in steps]


def _hull(points: list[tuple[float, float, Kept]]) -> list[tuple[float, float, Kept]]:
    """The points (cost, what is to be small, which) on the lower convex hull, the cheapest first."""
    hull: list[tuple[float, float, Kept]] = []
    for point in sorted(points, key=lambda point: point[:2]):
        if hull and (point[0] <= hull[-1][0] or point[1] >= hull[-1][1]):
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(one: tuple[float, float, Kept], other: tuple[float, float, Kept]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def _blends(bounded: Mapping[CostName, float]) -> list[dict[CostName, float]]:
    """Prices of the limited costs, each in parts of its limit."""
    parts = {name: 1 / limit if limit > 0 else 1.0 for name, limit in bounded.items()}
    if len(bounded) < 2:
        return [parts]
    firsts = list(bounded)[: 1 if len(bounded) == 2 else None]
    return [
        {name: part * (share if name == first else (1 - share) / (len(bounded) - 1)) for name, part in parts.items()}
        for share in _BLENDS
        for first in firsts
    ]


def _walk(
    choices: Choices, minimise: CostName, bounded: Mapping[CostName, float], prices: Mapping[CostName, float]
) -> tuple[dict[str, Kept] | None, float]:
    """From the cheapest choice at these prices, every step of the hulls that the limits allow, the best first.

    None where not even the cheapest keeps them. With it comes a bound: what steps at these prices, the last one in
    part, would reach for the price of all limits together.
    """

    paid = [(name, value) for name, value in prices.items() if value]

    def price(one: Kept) -> float:
        total = 0.0
        for name, value in paid:
            total += getattr(one, name) * value
        return total

    kept, steps = _steps(choices, minimise, price)
    bound = _bound(dict(kept), steps, minimise, price, sum(bounded[name] * value for name, value in prices.items()))
    totals = {name: _sum(kept, name) for name in bounded}
    if not keeps(totals, bounded):
        return None, bound
    stuck: set[str] = set()
    for name, after in steps:
        # Who left out a step has to leave out those beyond it, which only gain less for their cost.
        changed = {c: totals[c] + getattr(after, c) - getattr(kept[name], c) for c in bounded}
        if name in stuck or not keeps(changed, bounded):
            stuck.add(name)
            continue
        kept[name], totals = after, changed
    return kept, bound


def _bound(
    kept: dict[str, Kept], steps: list[tuple[str, Kept]], minimise: CostName, price: Price, most: float
) -> float:
    """The least that weights kept in parts of two formats could cost for a price in all (Dantzig 1957)."""
    value, spent = _sum(kept, minimise), sum(price(one) for one in kept.values())
    for name, after in steps:
        gain, cost = getattr(kept[name], minimise) - getattr(after, minimise), price(after) - price(kept[name])
        if spent + cost > most:
            return float(value - gain * max(0.0, most - spent) / cost)
        kept[name], value, spent = after, value - gain, spent + cost
    return value


def _spend(choices: Choices, minimise: CostName, bounded: Mapping[CostName, float], kept: dict[str, Kept]) -> None:
    """Change single weights for the better while the limits are kept, the largest gain first."""
    totals = {name: _sum(kept, name) for name in bounded}
    gains = [
        (gain, name, one)
        for name, found in choices.items()
        for one in found
        if (gain := getattr(kept[name], minimise) - getattr(one, minimise)) > 0
    ]
    for _, name, one in sorted(gains, key=lambda item: (-item[0], item[1])):
        if getattr(one, minimise) >= getattr(kept[name], minimise):
            continue
        changed = {c: totals[c] + getattr(one, c) - getattr(kept[name], c) for c in bounded}
        if keeps(changed, bounded):
            kept[name], totals = one, changed


def _sum(kept: Mapping[str, Kept], cost: CostName) -> float:
    return float(sum([getattr(one, cost) for one in kept.values()]))
