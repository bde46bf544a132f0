"""What other budgets would bring: the smallest one, a tenth more, and the next that changes something."""

from __future__ import annotations

from pintpot.budget import Prefer
from pintpot.planner.allocate import smallest_bytes
from pintpot.planner.draft import Draft
from pintpot.planner.plan import Advice, Plan
from pintpot.planner.refine import refined
from pintpot.planner.search import Search, joint, rank
from pintpot.planner.space import Choice
from pintpot.units import format_bytes, format_bytes_up, format_seconds

MATTERS = 0.99
"""A plan whose first figure is beyond this share of another's is no news."""
FINE = 0.001
"""The smallest budget under a limit of speed is found to this share."""


def smallest_budget(search: Search) -> int | None:
    """The smallest memory budget for which some plan keeps all other limits; None where no memory would do."""
    places = search.space.places
    floors = [(smallest_bytes(search.bench, made, places), made.whole_bytes) for _, made in search.drafts()]
    if not floors:
        return None
    low, high = min(floor for floor, _ in floors), max(whole for _, whole in floors)
    if _fits(search, low):
        return low
    if not _fits(search, high):
        return None
    # More memory leaves less to be read, so a limit of speed that holds goes on holding.
    while high - low > FINE * low:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(search, middle) else (middle, high)
    return high


def advice(search: Search, choice: Choice, plan: Plan) -> tuple[Advice, ...]:
    """What a tenth more memory would bring, and the next budget at which a choice changes for the better.

    For a plan that streams, that is the budget at which the first better one needs no disk.
    """
    tenth = round(search.memory_bytes * 1.1)
    rows = []
    best = _best(search, tenth)
    if best is not None:
        rows.append(Advice(tenth, best[1].cost.total_s.mid, "10% more memory"))
    memory = _next_change(search, plan)
    best = None if memory is None else _best(search, memory)
    if memory is not None and best is not None:
        rows.append(Advice(memory, best[1].cost.total_s.mid, _change(choice, plan, best)))
    return tuple(rows)


def why_not(search: Search, smallest: int | None) -> str:
    """Why there is no plan: the smallest budget that would do, or which limit nothing keeps, and what would give."""
    budget, model = search.budget, search.bench.question.model
    if smallest is not None and smallest > budget.memory_bytes:
        asked, remedy = (
            f" with a context of {budget.workload.context}",
            "a shorter --context or a smaller --batch lowers it",
        )
        if model.language is None:
            torch_bytes = format_bytes(search.bench.question.torch_bytes)
            asked, remedy = "", f"{torch_bytes} of it are Python and PyTorch; smaller example inputs lower the rest"
        return (
            f"{model.name} does not fit {format_bytes(budget.memory_bytes)}{asked}; the smallest possible budget is "
            f"{format_bytes_up(smallest)} ({smallest} bytes; {remedy})"
        )
    return f"no plan for {model.name} keeps every limit, whatever the memory: {_nearest(search)}"


def _nearest(search: Search) -> str:
    """By how much the best plans miss the limit that decides."""
    budget = search.budget
    made = [made for _, made in search.drafts()]
    if not made:
        least = min((search.bench.degradation([s for s in c if s]).high for c in search.space.all()), default=0.0)
        return f"the least degradation to be had is {least:.3g} nats, the limit is {budget.degradation:g}"
    reasons = []
    if budget.first_token_s is not None:
        least = min(d.stage(0).seconds.high for d in made)
        limit = format_seconds(budget.first_token_s)
        reasons.append(f"the first token takes {format_seconds(least)} at least, the limit is {limit}")
    if budget.per_token_s is not None:
        least = min(d.stage(-1).each_s.high for d in made)
        reasons.append(
            f"a token takes {format_seconds(least)} at least, the limit is {format_seconds(budget.per_token_s)}"
        )
    return "; ".join(reasons) + f" (within a degradation of {budget.degradation:g} nats)"


def _fits(search: Search, memory_bytes: int) -> bool:
    budget = search.budget
    if budget.first_token_s is None and budget.per_token_s is None:
        return True
    return _best(search, memory_bytes) is not None


def _best(search: Search, memory_bytes: int) -> tuple[Choice, Plan] | None:
    other = search.within(memory_bytes)
    joint(other)
    found = refined(other, exactly=False)
    return None if found is None else found[:2]


def _next_change(search: Search, plan: Plan) -> int | None:
    """The smallest larger budget at which a choice with everything in RAM is better than this plan."""
    prefer = search.budget.prefer
    mine = rank(plan, "speed" if prefer == "memory" else prefer)[0]
    larger = [made for _, made in search.drafts() if made.whole_bytes > search.memory_bytes]
    # From the smallest on, so that those beyond the answer are never priced.
    larger.sort(key=lambda made: made.whole_bytes)
    return next((made.whole_bytes for made in larger if _is_first_below(made, prefer, MATTERS * mine)), None)


def _is_first_below(made: Draft, prefer: Prefer, limit: float) -> bool:
    """Whether the first figure of a draft's rank is, with everything in RAM; prompts are priced if answers are fast."""
    if prefer == "quality":
        return made.degradation.high < limit
    seconds = 0.0
    for index in reversed(range(len(made.work.stages))):
        seconds += made.stage(index).seconds.mid
        if seconds >= limit:
            return False
    return True


def _change(choice: Choice, plan: Plan, best: tuple[Choice, Plan]) -> str:
    other, wider = best
    if plan.form.disk_bytes and not wider.form.disk_bytes:
        return "everything stays in RAM"
    changed = [str(new) for old, new in zip(choice, other, strict=True) if new is not None and new != old]
    dropped = [f"without {old}" for old, new in zip(choice, other, strict=True) if new is None and old is not None]
    parts = ([f"with {' and '.join(changed)}"] if changed else []) + dropped
    return ", ".join(parts) or "more of the weights stay in RAM"
