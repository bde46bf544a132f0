"""The last bit of a budget: the mixture that won, chosen again for exactly what the plan has left for weights.

A budget's memory, its degradation and its time for each token become limits on the sums over weights. What comes out is
placed and priced as any other choice, and stays only where it is better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import inf

from pintpot.contract.step import Facet
from pintpot.planner.bits import Allocation, Choices, CostName, Limits, allocate
from pintpot.planner.draft import Draft, Priced
from pintpot.planner.mixtures import mixed
from pintpot.planner.plan import Plan
from pintpot.planner.search import Search
from pintpot.planner.space import Choice

_ROUNDS = 3
"""How often a limit of time is set anew, by how far the last price was off it."""
_HALVINGS = 7

NEAR = (
    "formats of single weights are near the best choice; with `pip install pintpot[calibrate]` they are the best choice"
)
EXACT = "formats of single weights are the best choice for these limits, found by an exact solver"


def refined(search: Search, *, exactly: bool = True) -> tuple[Choice, Plan, str] | None:
    """The best choice of a search after its formats were chosen again weight by weight, and how good that choice is.

    "" where formats are not chosen by weight: without a table of sensitivities, or where one format for all is better.
    """
    best = search.best()
    dimensions = search.space.dimensions
    at = next((i for i, d in enumerate(dimensions) if d.facet == Facet.FORMAT and d.target == "all"), None)
    if best is None:
        return None
    if at is None:
        return (*best, "")
    made = search.bench.draft([step for step in best[0] if step is not None])
    table = search.formats(made)
    solved: dict[Choice, Allocation] = {}
    if table:
        for found in _allocations(search, best[0], at, made, table, exactly):
            choice = _with(search, best[0], at, found)
            solved[choice] = found
            search.try_choice(choice)
    choice, plan = search.best() or best
    if choice in solved:
        return choice, plan, EXACT if solved[choice].exact else NEAR
    return choice, plan, ""


def _allocations(
    search: Search, choice: Choice, at: int, made: Draft, table: Choices, exactly: bool
) -> Iterator[Allocation]:
    """What may be better than a choice, each for one reading of what its limits leave to formats."""
    budget = search.budget
    others = sum(search.bench.question.expects.of(step)[1] for i, step in enumerate(choice) if i != at)
    nats = budget.degradation - others
    room = search.memory_bytes - made.fixed_bytes
    streams = search.priced[choice].place is not None
    smaller: tuple[CostName, Limits] = ("num_bytes", Limits(nats=nats))
    problems: dict[str, tuple[tuple[CostName, Limits], ...]] = {
        "speed": (("seconds", Limits(nats=nats, num_bytes=room)), *((smaller,) if streams else ())),
        "quality": (("nats", Limits(num_bytes=room)),),
        "memory": (smaller,),
    }
    for minimise, limits in problems[budget.prefer]:
        yield from _timed(search, choice, at, table, minimise, limits, exactly)
    if budget.prefer == "quality" and made.whole_bytes > search.memory_bytes:
        yield from _streamed(search, choice, at, made, table, exactly)


def _timed(
    search: Search, choice: Choice, at: int, table: Choices, minimise: CostName, limits: Limits, exactly: bool
) -> Iterator[Allocation]:
    """Under a limit of time for each token: set so that the last price would have kept it, a few times."""
    limit, allowed = search.budget.per_token_s, inf
    if limit is not None:
        allowed = _allowed(search.priced[choice], table, choice, at, limit)
    for _ in range(_ROUNDS):
        if limits.nats < 0 or limits.num_bytes < 0 or allowed < 0:
            return
        found = allocate(table, minimise, replace(limits, token_s=allowed), exactly=exactly)
        if found is None:
            return
        yield found
        tried = _with(search, choice, at, found)
        priced = search.priced.get(tried) or search.nearest.get(tried)
        if limit is None or priced is None or priced.cost.per_token_s.high <= limit:
            return
        allowed = _allowed(priced, table, tried, at, limit)


def _allowed(priced: Priced, table: Choices, choice: Choice, at: int, limit: float) -> float:
    """Seconds that all weights may take for a token, so that a plan as far from it as this one keeps the limit."""
    cost, step = priced.cost.per_token_s, choice[at]
    forms = {} if step is None else {w.name: w.format for w in priced.draft.form.weights}
    own = sum(one.token_s for name, found in table.items() for one in found if one.format == forms[name])
    return own + (limit - cost.high) * cost.mid / cost.high


def _streamed(
    search: Search, choice: Choice, at: int, made: Draft, table: Choices, exactly: bool
) -> Iterator[Allocation]:
    """Where weights are read from disk, a limit of time is one of bytes: the most that keep all limits."""
    low, high = float(made.form.weight_bytes), sum(max(one.num_bytes for one in found) for found in table.values())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = allocate(table, "nats", Limits(num_bytes=middle), exactly=False)
        if found is None:
            return
        yield found
        kept = search.try_choice(_with(search, choice, at, found)) is not None
        low, high = (middle, high) if kept else (low, middle)
    last = allocate(table, "nats", Limits(num_bytes=low), exactly=exactly)
    if last is not None:
        yield last


def _with(search: Search, choice: Choice, at: int, found: Allocation) -> Choice:
    return search.gently((*choice[:at], mixed(found.formats), *choice[at + 1 :]))
