"""Formats for each weight: the solver against enumeration, the greedy walk within limits, both against uniform."""

from __future__ import annotations

import random
from itertools import product
from math import inf

import pytest

from pintpot.planner.bits import (
    COSTS,
    Allocation,
    CostName,
    Kept,
    Limits,
    allocate,
    frontier,
    greedy,
    keeps,
)

MINIMISED: tuple[CostName, ...] = ("nats", "num_bytes", "seconds")
Table = dict[str, tuple[Kept, ...]]


def drawn(seed: int, num_weights: int, num_formats: int) -> Table:
    """Weights whose formats lose more the smaller they are, with some that are beaten in everything."""
    rng = random.Random(seed)
    table = {}
    for index in range(num_weights):
        size, worth = rng.randint(1, 9), rng.lognormvariate(0, 1)
        formats = []
        for bits in range(num_formats):
            num_bytes = size * (10 + 7 * bits) + rng.randint(0, 3)
            nats = worth * 4.0**-bits * rng.uniform(0.7, 1.4)
            formats.append(Kept(f"f{bits}", nats, num_bytes, num_bytes * rng.uniform(0.5, 1.5), size * rng.random()))
        table[f"layers.{index}.q"] = tuple(formats)
    return table


def limits_between(table: Table, rng: random.Random, bounded: tuple[CostName, ...]) -> Limits:
    found: dict[CostName, float] = {}
    for name in bounded:
        least = sum(min(getattr(one, name) for one in formats) for formats in table.values())
        most = sum(max(getattr(one, name) for one in formats) for formats in table.values())
        found[name] = least + rng.uniform(0.0, 1.0) * (most - least)
    return Limits(**found)


def enumerated(table: Table, minimise: CostName, limits: Limits) -> float:
    """The least cost within the limits, infinite where nothing keeps them."""
    best = inf
    for chosen in product(*table.values()):
        totals: dict[CostName, float] = {name: sum(getattr(one, name) for one in chosen) for name in COSTS}
        if keeps(totals, limits.set):
            best = min(best, totals[minimise])
    return best


def within(found: Allocation, limits: Limits) -> bool:
    return keeps({name: found.total(name) for name in COSTS}, limits.set)


CASES = [
    (seed, minimise, bounded)
    for seed in range(6)
    for minimise in MINIMISED
    for bounded in (("nats",), ("num_bytes",), ("num_bytes", "token_s"), ("nats", "num_bytes", "token_s"))
    if minimise not in bounded
]


def test_what_the_walk_calls_exact_is_what_enumeration_finds() -> None:
    num_exact = 0
    for seed, minimise, bounded in CASES:
        table = drawn(seed, num_weights=6, num_formats=4)
        limits = limits_between(table, random.Random(seed + 50), bounded)
        found = greedy(table, minimise, limits)
        if found is not None and found.exact:
            num_exact += 1
            assert found.total(minimise) <= enumerated(table, minimise, limits) * (1 + 1.1e-4)
    assert num_exact > 0


@pytest.mark.parametrize(("seed", "minimise", "bounded"), CASES)
def test_the_solver_finds_what_enumeration_finds(seed: int, minimise: CostName, bounded: tuple[CostName, ...]) -> None:
    pytest.importorskip("highspy")
    table = drawn(seed, num_weights=6, num_formats=4)
    limits = limits_between(table, random.Random(seed), bounded)
    found, wanted = allocate(table, minimise, limits), enumerated(table, minimise, limits)
    assert (found is None) == (wanted == inf)
    if found is not None:
        assert found.exact
        assert within(found, limits)
        assert found.total(minimise) == pytest.approx(wanted, rel=1.1e-4)


def test_greedy_keeps_every_limit_and_finds_something_under_one_limit_wherever_there_is_something() -> None:
    num_found, num_exact = 0, 0
    for seed, minimise, bounded in CASES:
        table = drawn(seed + 100, num_weights=12, num_formats=5)
        limits = limits_between(table, random.Random(seed), bounded)
        found = greedy(table, minimise, limits)
        if found is None:
            assert len(bounded) > 1
            continue
        num_found += 1
        num_exact += found.exact
        assert within(found, limits)
    assert num_found > 0.8 * len(CASES)
    assert num_exact < num_found


def test_greedy_is_near_the_solver() -> None:
    pytest.importorskip("highspy")
    for seed in range(8):
        table = drawn(seed, num_weights=60, num_formats=5)
        limits = limits_between(table, random.Random(seed), ("num_bytes",))
        near, exact = greedy(table, "nats", limits), allocate(table, "nats", limits)
        assert near is not None
        assert exact is not None
        assert exact.total("nats") <= near.total("nats") <= 1.02 * exact.total("nats")


@pytest.mark.parametrize("exactly", [True, False])
def test_at_the_bytes_of_a_uniform_choice_nothing_is_worse_than_it(exactly: bool) -> None:
    table = drawn(3, num_weights=40, num_formats=5)
    for bits in range(5):
        uniform = [formats[bits] for formats in table.values()]
        num_bytes = sum(one.num_bytes for one in uniform)
        found = allocate(table, "nats", Limits(num_bytes=num_bytes), exactly=exactly)
        assert found is not None
        assert found.total("num_bytes") <= num_bytes
        assert found.total("nats") <= sum(one.nats for one in uniform)


def test_a_limit_that_nothing_keeps_has_no_answer() -> None:
    table = drawn(1, num_weights=3, num_formats=3)
    assert allocate(table, "nats", Limits(num_bytes=1.0)) is None
    assert greedy(table, "nats", Limits(num_bytes=1.0)) is None


def test_without_the_solver_the_answer_says_that_it_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pintpot.planner.bits.has_solver", lambda: False)
    table = drawn(2, num_weights=20, num_formats=4)
    limits = limits_between(table, random.Random(2), ("num_bytes",))
    found = allocate(table, "nats", limits)
    assert found is not None
    assert not found.exact
    assert within(found, limits)


def test_the_frontier_goes_from_the_smallest_to_the_best_and_each_point_is_the_best_of_its_size() -> None:
    table = drawn(5, num_weights=6, num_formats=4)
    least = sum(min(one.nats for one in formats) for formats in table.values())
    asked = [1e9, *(least * 2.0**-step for step in range(-8, 0)), 0.0]
    points = frontier(table, lambda one: one.num_bytes, asked)
    sizes = [sum(one.num_bytes for one in point.values()) for point in points]
    nats = [sum(one.nats for one in point.values()) for point in points]
    assert len(set(sizes)) > 5
    assert sizes == sorted(sizes)
    assert sizes[0] == sum(min(one.num_bytes for one in formats) for formats in table.values())
    assert nats[-1] == pytest.approx(least)
    for limit, size, found in zip(asked[:-1], sizes, nats, strict=False):
        assert found <= limit * (1 + 1e-9)
        assert found == pytest.approx(enumerated(table, "nats", Limits(num_bytes=size)))
