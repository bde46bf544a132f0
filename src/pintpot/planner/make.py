"""From a question to a plan with its reasons: what lost and by how much, and what other budgets would bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pintpot.budget import Budget
from pintpot.contract.step import Step
from pintpot.errors import DoesNotFit, UsageError, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.planner.degradation import Priors, shipped_priors
from pintpot.planner.plan import Advice, Plan, Rejected
from pintpot.planner.question import Question
from pintpot.planner.search import Search, joint, rank
from pintpot.planner.space import Choice, Space, build_space
from pintpot.units import format_bytes

Strategy = Callable[[Search], tuple[Choice, Plan] | None]


def make_plan(
    model: Model,
    machine: Machine,
    budget: Budget,
    *,
    priors: Priors | None = None,
    measured: Mapping[str, tuple[float, float]] | None = None,
    strategy: Strategy = joint,
) -> Plan:
    """The best plan for this model on this machine that keeps the budget.

    The same arguments give the same plan, byte for byte. Raises DoesNotFit with the smallest budget that would do and
    what would have to give; UsageError for a context beyond the model's.
    """
    workload = budget.workload
    need(
        workload.context <= model.context,
        f"a context of {workload.context} is beyond the model's {model.context}; use --context {model.context} or less",
        UsageError,
    )
    question = Question(model, machine, budget, priors or shipped_priors(), measured or {})
    search = Search(question, build_space(question))
    found = strategy(search)
    if found is None:
        raise DoesNotFit(_why_not(search))
    choice, plan = found
    rejected = (*_neighbours(search, choice, plan), *search.space.ruled_out)
    return replace(
        plan, rejected=rejected, advice=_advice(search, choice, plan), smallest_bytes=smallest_budget(search)
    )


def alternative(plan: Plan, rejected: Rejected) -> tuple[Step, ...]:
    """The steps of an alternative that lost, its place left out for the allocation to solve."""
    kept = [s for s in plan.steps if s != rejected.instead_of and not (rejected.step and s.clashes(rejected.step))]
    return (*kept, rejected.step) if rejected.step else tuple(kept)


def _neighbours(search: Search, choice: Choice, plan: Plan) -> tuple[Rejected, ...]:
    """Every plan that differs in one choice, with its figures or its reason."""
    rows: list[Rejected] = []
    for index, dimension in enumerate(search.space.dimensions):
        for option in dimension.options:
            if option == choice[index]:
                continue
            other = (*choice[:index], option, *choice[index + 1 :])
            tried = search.try_choice(other)
            name = str(option) if option is not None else f"without {choice[index]}"
            figures = tried or search.nearest.get(other)
            reason = _why_slower(tried, plan) if tried else search.failures[other]
            row = Rejected(name, reason, option, choice[index] if option is None else None)
            if figures is not None:
                row = replace(
                    row,
                    memory_bytes=figures.cost.memory_high,
                    total_s=figures.cost.total_s.mid,
                    degradation=figures.degradation.high,
                )
            rows.append(row)
    return tuple(rows)


def _why_slower(other: Plan, plan: Plan) -> str:
    prefer = plan.budget.prefer
    labels = {"speed": "slower", "quality": "worse", "memory": "larger"}
    mine, theirs = rank(plan, prefer), rank(other, prefer)
    if theirs[0] > mine[0]:
        ratio = theirs[0] / mine[0] if mine[0] else float("inf")
        return f"{labels[prefer]}: {ratio:.3g} times"
    return "no better, and worse in what decides between equals"


def _advice(search: Search, choice: Choice, plan: Plan) -> tuple[Advice, ...]:
    """What a tenth more memory would bring, and the next budget at which everything of this plan stays in RAM."""
    question, rows = search.question, []
    tenth = round(plan.budget.memory_bytes * 1.1)
    wanted = [(tenth, "10% more memory")]
    if plan.form.disk_bytes:
        whole = plan.cost.memory_high + plan.form.disk_bytes
        if whole > tenth:
            wanted.append((whole, "everything in RAM"))
    for memory, what in wanted:
        wider = Search(replace(question, budget=replace(question.budget, memory_bytes=memory)), search.space)
        best = wider.try_choice(choice)
        for index, dimension in enumerate(search.space.dimensions):
            for option in dimension.options:
                other = wider.try_choice((*choice[:index], option, *choice[index + 1 :]))
                if other is not None and (best is None or wider.better(other, best)):
                    best = other
        if best is not None:
            rows.append(Advice(memory, best.cost.total_s.mid, what))
    return tuple(rows)


def smallest_budget(search: Search) -> int:
    """The smallest memory budget for which some plan keeps all other limits."""
    return _smallest(search.question, search.space)


def _smallest(question: Question, space: Space) -> int:
    hopeless = replace(question, budget=replace(question.budget, memory_bytes=1))
    search = Search(hopeless, space)
    for choice in _thrifty(space):
        search.try_choice(choice)
    return search.smallest_bytes or 0


def _thrifty(space: Space) -> tuple[Choice, ...]:
    """Choices that change one dimension at a time from the one with the smallest cache and buffers."""
    start = tuple(d.options[-1] if len(d.options) > 1 and d.options[-1] is not None else d.options[0] for d in space.dimensions)
    choices = [start]
    for index, dimension in enumerate(space.dimensions):
        choices += [(*start[:index], option, *start[index + 1 :]) for option in dimension.options]
    return tuple(dict.fromkeys(choices))


def _why_not(search: Search) -> str:
    budget: Budget = search.question.budget
    smallest = smallest_budget(search)
    if smallest > budget.memory_bytes:
        return (
            f"{search.question.model.name} does not fit {format_bytes(budget.memory_bytes)} with a context of "
            f"{budget.workload.context}; the smallest possible budget is {format_bytes(smallest)} "
            f"(a shorter --context or a smaller --batch lowers it)"
        )
    reasons: list[str] = []
    for reason in (*search.failures.values(), *(item.reason for item in search.space.ruled_out)):
        if reason not in reasons:
            reasons.append(reason)
    return f"no plan for {search.question.model.name} keeps every limit: " + "; ".join(reasons[:4])
