"""The one road from steps to a plan: check, promise, rewrite, lay out, place, price, and hold against the budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pintpot.contract.form import Form, source_form
from pintpot.contract.step import Facet, Step
from pintpot.errors import DoesNotFit, NotApplicable, UsageError, need
from pintpot.nets import family
from pintpot.planner.cost import Holder
from pintpot.planner.degradation import expected
from pintpot.planner.holders import fixed_holders, weight_holders
from pintpot.planner.plan import Degradation, Plan
from pintpot.planner.question import Question
from pintpot.planner.workload import price_workload
from pintpot.program.spec import Work
from pintpot.units import format_bytes

NATIVE_PART = "language"


@dataclass(frozen=True)
class Draft:
    """A choice of steps taken as far as it goes without a place: the form and the work they make, and what they hold."""

    question: Question
    steps: tuple[Step, ...]
    form: Form
    work: Work
    fixed: tuple[Holder, ...]
    degradation: Degradation

    @property
    def room_bytes(self) -> int:
        """What the budget leaves for weights and ring."""
        return self.question.budget.memory_bytes - sum(holder.high for holder in self.fixed)


def draft(question: Question, steps: Iterable[Step]) -> Draft:
    """Check the steps and fold them. Raises NotApplicable with a step's reason, UsageError where two steps clash."""
    ordered = _ordered(step for step in steps if step.facet != Facet.PLACE)
    degradation = expected(ordered, question.priors, question.measured, question.budget.below_4_bits)
    form = source_form(question.model)
    for step in ordered:
        step.check(question.model, form)
        form = step.promise(form)
    loose = [w.name for w in form.weights if w.is_matrix and not w.packed]
    need(not loose, f"no step says in which format {', '.join(loose[:3])} are kept", NotApplicable)
    part = question.model.part(NATIVE_PART)
    work = family(part.family).work(part.config, form, question.budget.workload)
    for step in ordered:
        work = step.rewrite(work, form)
    return Draft(question, ordered, form, work, fixed_holders(question, work), degradation)


def price(made: Draft, place: Step | None = None) -> Plan:
    """The plan that a draft makes with its weights at a place, not yet held against the budget."""
    question, form, work = made.question, made.form, made.work
    steps = made.steps
    if place is not None:
        place.check(question.model, form)
        form = place.promise(form)
        work = place.rewrite(work, form)
        steps = (*steps, place)
    part, machine = question.model.part(NATIVE_PART), question.machine
    return Plan(
        model_name=question.model.name,
        model_digest=question.model.digest,
        family=part.family,
        config=part.config,
        machine_name=machine.name,
        machine_digest=machine.digest,
        machine_fingerprint=machine.fingerprint,
        machine_origin=machine.origin,
        budget=question.budget,
        threads=question.threads,
        steps=steps,
        form=form,
        cost=price_workload(question, form, work, made.fixed + weight_holders(form)),
        degradation=made.degradation,
        notes=machine.notes,
    )


def assess(question: Question, steps: Iterable[Step]) -> Plan:
    """The plan that these steps make. Raises NotApplicable with a step's reason, DoesNotFit with the deciding number."""
    given = tuple(steps)
    place = next((step for step in given if step.facet == Facet.PLACE), None)
    plan = price(draft(question, given), place)
    short = shortfall(plan)
    if short is not None:
        raise DoesNotFit(short)
    return plan


def shortfall(plan: Plan) -> str | None:
    """Which limit the plan breaks at its bad end, in words; None when it keeps all."""
    budget, cost = plan.budget, plan.cost
    if cost.memory_high > budget.memory_bytes:
        return f"needs {format_bytes(cost.memory_high)}, the budget is {format_bytes(budget.memory_bytes)}"
    if plan.degradation.high > budget.degradation:
        return f"degradation of up to {plan.degradation.high:.3g} nats, the limit is {budget.degradation:g}"
    if budget.first_token_s is not None and cost.first_token_s.high > budget.first_token_s:
        return f"first token after up to {cost.first_token_s.high:.3g} s, the limit is {budget.first_token_s:g}"
    if budget.per_token_s is not None and cost.per_token_s.high > budget.per_token_s:
        return f"up to {cost.per_token_s.high:.3g} s per token, the limit is {budget.per_token_s:g}"
    return None


def rebuild_work(plan: Plan) -> Work:
    """The work of a plan, as it was priced."""
    work = family(plan.family).work(plan.config, plan.form, plan.budget.workload)
    for step in plan.steps:
        work = step.rewrite(work, plan.form)
    return work


def reprice(plan: Plan, question: Question) -> Plan:
    """The same steps priced again: on another machine, or after measurements."""
    place = next((step for step in plan.steps if step.facet == Facet.PLACE), None)
    return replace(price(draft(question, plan.steps), place), smallest_bytes=plan.smallest_bytes)


def _ordered(steps: Iterable[Step]) -> tuple[Step, ...]:
    ordered = tuple(sorted(steps, key=lambda step: (step.facet, step.target, step.name)))
    for index, step in enumerate(ordered):
        for other in ordered[index + 1 :]:
            if step.clashes(other):
                raise UsageError(f"{step} and {other} both decide {step.facet.name.lower()}")
    return ordered
