"""The work of a plan that somebody else made: of it no price is asked, so nothing that prices is imported."""

from __future__ import annotations

from pintpot.nets import work_of
from pintpot.planner.plan import Plan
from pintpot.program.early import select_early
from pintpot.program.spec import Work


def rebuild_work(plan: Plan, *, every_row: bool = False) -> Work:
    """The work of a plan, as it was priced; with `every_row` all rows of a prompt go through all of the network."""
    work = work_of(plan.parts, plan.form, plan.budget.workload)
    work = work if every_row else select_early(work)
    for step in plan.steps:
        work = step.rewrite(work, plan.form)
    return work
