"""The work of a plan that somebody else made: of it no price is asked, so nothing that prices is imported."""

from __future__ import annotations

from pintpot.nets import family
from pintpot.planner.plan import Plan
from pintpot.program.spec import Work


def rebuild_work(plan: Plan) -> Work:
    """The work of a plan, as it was priced."""
    work = family(plan.family).work(plan.config, plan.form, plan.budget.workload)
    for step in plan.steps:
        work = step.rewrite(work, plan.form)
    return work
