"""The one road from steps to a plan: check, promise, rewrite, lay out, place, price, and hold against the budget."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from itertools import combinations

from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import DoesNotFit, NotApplicable, UsageError, need
from pintpot.nets import work_of
from pintpot.planner.calibrating import TOKENS, calibrating_bytes, calibrating_s, no_room
from pintpot.planner.cost import Cost, Holder
from pintpot.planner.degradation import expected, gentler, steps_key
from pintpot.planner.draft import Draft, Priced
from pintpot.planner.guessing import gain_of
from pintpot.planner.holders import (
    all_holders,
    constant_holders,
    lent_page_bytes,
    loading_bytes,
    with_slots,
    work_holders,
)
from pintpot.planner.plan import Degradation, Plan
from pintpot.planner.price import Prices
from pintpot.planner.question import Question
from pintpot.planner.rates import Rates
from pintpot.planner.workload import price_workload
from pintpot.program.alike import alike
from pintpot.program.early import select_early
from pintpot.program.inside import inside_bytes
from pintpot.program.layout import lay_out
from pintpot.program.ops import attend
from pintpot.program.scratch import Needs, Rows, Scratch
from pintpot.program.spec import Program, Work
from pintpot.techniques.place.streamed import Split, Streamed, most_slots
from pintpot.units import format_bytes, format_seconds

Fixed = tuple[tuple[Holder, ...], tuple[Holder, ...]]


class Bench:
    """Makes plans of steps for one question; what choices have in common it remembers: thousands can be weighed."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self._source = question.expects.source
        self.can_stream = question.machine.rate("disk") is not None
        self._constant = constant_holders(question)
        self._loading_bytes = loading_bytes(question)
        self._forms: dict[tuple[Step, ...], Form] = {}
        self._drafts: dict[tuple[Step, ...], Draft] = {}
        self._sizes: dict[Hashable, Mapping[str, int]] = {}
        self._prices: dict[int, Prices] = {}
        self._works: dict[Form, Work] = {}
        # By the identity of work, which is kept beside it, so that no other one gets it.
        self._held: dict[int, tuple[Work, Fixed]] = {}
        self._needs: dict[int, tuple[object, Needs]] = {}
        self._op_needs: dict[Hashable, Rows] = {}
        self._scratches: dict[Hashable, Scratch] = {}
        self._degradations: dict[tuple[Step, ...], Degradation] = {}
        self._calibrating: dict[tuple[Step, ...], int] = {}
        self._rings: dict[int, tuple[Streamed, ...]] = {}
        self._footprints = question.machine.sizes("read") or [0]

    def degradation(self, steps: Iterable[Step]) -> Degradation:
        """What these steps are expected to cost in quality. Raises NotApplicable for what nobody may assume."""
        key, question = tuple(steps), self.question
        found = self._degradations.get(key)
        if found is None:
            found = expected(key, question.expects, question.measured, question.budget.below_4_bits)
            self._degradations[key] = found
        return found

    def draft(self, steps: Iterable[Step]) -> Draft:
        """Check and fold the steps. Raises NotApplicable with a step's reason, UsageError where two steps clash."""
        key = tuple(step for step in steps if step.facet != Facet.PLACE)
        found = self._drafts.get(key)
        if found is None:
            found = self._drafts[key] = self._draft(_ordered(key))
        return found

    def price(self, made: Draft, place: Streamed | None = None) -> Priced:
        """A draft with its weights at a place, not yet held against the budget."""
        weights = made.form.weights
        split = Split(weights.ram_bytes, {}, None)
        if place is not None:
            place.check(self.question.model, made.form)
            split = place.split(weights)
        if place is not None and split.disk:
            fixed, stages = made.fixed_streaming, made.streamed(place, split)
        else:
            fixed, stages = made.fixed, made.stages
        holders = all_holders(fixed, split.ram_bytes, split.ring, made.loading_bytes)
        source_bytes = self.question.model.num_bytes
        moved = lent_page_bytes(made.form, made.work, self._layout_sizes(made.work))
        cost = price_workload(stages, weights, split.ram_bytes, source_bytes, made.prices, holders, moved)
        return Priced(made, place, cost)

    def plan(self, priced: Priced) -> Plan:
        made, place = priced.draft, priced.place
        steps, form = (made.steps, made.form) if place is None else ((*made.steps, place), place.promise(made.form))
        tokens = TOKENS if self.question.model.language is not None else 0
        calibrating = calibrating_s(made.form, made.steps, made.prices.rates, tokens)
        gain = gain_of(priced, self.question.guesses)
        cost = replace(priced.cost, pack_s=priced.cost.pack_s + calibrating, calibrate_s=calibrating, guessing=gain)
        return plan_of(self.question, steps, form, cost, made.degradation)

    def prices(self, form: Form) -> Prices:
        """The machine's prices where every pass touches as many bytes as this form has.

        They are those of the next larger working set that was measured: what no longer fits a cache leaves it whole.
        """
        num_bytes = form.weight_bytes
        footprint = next((size for size in self._footprints if size >= num_bytes), self._footprints[-1])
        if footprint not in self._prices:
            self._prices[footprint] = Prices(Rates(self.question.machine, self.question.threads, footprint))
        return self._prices[footprint]

    def rings(self, places: Iterable[Step], form: Form) -> tuple[Streamed, ...]:
        """Those of the places that apply to a form: nothing but its largest strip can stand against one."""
        key = form.weights.largest_strip_bytes
        found = self._rings.get(key)
        if found is None:
            found = tuple(place for place in places if isinstance(place, Streamed) and self._applies(place, form))
            self._rings[key] = found
        return found

    def _applies(self, step: Step, form: Form) -> bool:
        try:
            step.check(self.question.model, form)
        except NotApplicable:
            return False
        return True

    def _draft(self, steps: tuple[Step, ...]) -> Draft:
        question = self.question
        degradation = self.degradation(steps)
        packing = self._packing_bytes(gentler(steps))
        form = self._promised(steps)
        loose = form.weights.unpacked
        need(not loose, f"no step says in which format {', '.join(loose[:3])} are kept", NotApplicable)
        work = self._work(form)
        for step in steps:
            work = step.rewrite(work, form)
        fixed, streaming = self._fixed(work, form)
        loading, prices = self._loading_bytes, self.prices(form)
        return Draft(steps, form, work, question.budget, fixed, streaming, loading, degradation, prices, packing)

    def _packing_bytes(self, steps: tuple[Step, ...]) -> int:
        if steps not in self._calibrating:
            self._calibrating[steps] = calibrating_bytes(self.question, steps)
        return self._calibrating[steps]

    def _work(self, form: Form) -> Work:
        """The work of a form before any step has rewritten it."""
        found = self._works.get(form)
        if found is None:
            question = self.question
            found = self._works[form] = select_early(work_of(question.model.parts, form, question.budget.workload))
        return found

    def _fixed(self, work: Work, form: Form) -> Fixed:
        """What a process holds beside the weights: with everything in RAM, and where rows are read from disk."""
        found = self._held.get(id(work))
        if found is None:
            found = self._held[id(work)] = (work, self._holders(work, form))
        return found[1]

    def _holders(self, work: Work, form: Form) -> Fixed:
        question, sizes = self.question, self._layout_sizes(work)
        needs = [self._scratch(program) for program in work.programs()]
        whole, streaming = (max(need.total(question.threads, looks) for need in needs) for looks in (False, True))
        workload, slots = question.budget.workload, most_slots(form.weights)
        inside = max(inside_bytes(program, question.threads) for program in work.programs())
        moved = lent_page_bytes(form, work, sizes)
        return (
            self._constant + work_holders(sizes, whole + moved, workload, inside),
            with_slots(self._constant, slots) + work_holders(sizes, streaming + moved, workload, inside),
        )

    def _promised(self, steps: tuple[Step, ...]) -> Form:
        if not steps:
            return self._source
        found = self._forms.get(steps)
        if found is None:
            before, last = self._promised(steps[:-1]), steps[-1]
            last.check(self.question.model, before)
            promised = self.question.expects.promised(last) if len(steps) == 1 else last.promise(before)
            found = self._forms[steps] = promised
        return found

    def _scratch(self, program: Program) -> Scratch:
        # Groups are the same object for programs of the same ops and buffers, and kept so that none takes their place.
        groups = alike(program)
        key = (id(groups), program.bounds)
        found = self._scratches.get(key)
        if found is None:
            if id(groups) not in self._needs:
                self._needs[id(groups)] = (groups, Needs.of(program, self._op_needs))
            needs = self._needs[id(groups)][1]
            found = self._scratches[key] = needs.scratch(program, self.question.threads)
        return found

    def _layout_sizes(self, work: Work) -> Mapping[str, int]:
        sizes = self._sizes.get(work.key) if work.key is not None else None
        if sizes is None:
            _check_native(work)
            sizes = lay_out(work).sizes
            if work.key is not None:
                self._sizes[work.key] = sizes
        return sizes


def assess(question: Question, steps: Iterable[Step]) -> Plan:
    """The plan of these steps. Raises NotApplicable with a step's reason, DoesNotFit with the deciding number."""
    plan = _walk(question, tuple(steps))
    short = shortfall(plan, question.budget.memory_bytes)
    if short is not None:
        raise DoesNotFit(short)
    return plan


def reprice(plan: Plan, question: Question) -> Plan:
    """The same steps priced again: on another machine, or after measurements. What they do to quality stays."""
    known = {steps_key(plan.steps): plan.degradation}
    priced = _walk(replace(question, measured=known), plan.steps)
    return replace(priced, degradation=plan.degradation, smallest_bytes=plan.smallest_bytes)


def shortfall(plan: Plan | Priced, memory_bytes: int) -> str | None:
    """Which limit the plan breaks at its bad end, in words; None when it keeps all."""
    budget, cost = plan.budget, plan.cost
    short = shortfall_of_memory(cost, memory_bytes)
    if short is not None:
        return short
    if plan.degradation.high > budget.degradation:
        high, unit = plan.degradation.high, plan.degradation.unit
        return f"degradation of up to {high:.3g} {unit}, the limit is {budget.degradation:g} {unit}"
    if budget.first_token_s is not None and cost.first_token_s.high > budget.first_token_s:
        slowest, limit = format_seconds(cost.first_token_s.high), format_seconds(budget.first_token_s)
        return f"first token after up to {slowest}, the limit is {limit}"
    if budget.per_token_s is not None and cost.per_token_s.high > budget.per_token_s:
        slowest, limit = format_seconds(cost.per_token_s.high), format_seconds(budget.per_token_s)
        return f"up to {slowest} per token, the limit is {limit}"
    return None


def shortfall_of_memory(cost: Cost, memory_bytes: int) -> str | None:
    """Whether the memory of a plan breaks the limit at its bad end, in words; None when it does not."""
    if cost.memory_high <= memory_bytes:
        return None
    return f"needs {format_bytes(cost.memory_high)}, the budget is {format_bytes(memory_bytes)}"


def _walk(question: Question, steps: tuple[Step, ...]) -> Plan:
    bench = Bench(question)
    place = next((step for step in steps if isinstance(step, Streamed)), None)
    made, memory = bench.draft(steps), question.budget.memory_bytes
    need(made.packing_bytes <= memory, no_room(made.packing_bytes, memory), DoesNotFit)
    return bench.plan(bench.price(made, place))


def _check_native(work: Work) -> None:
    """Raise UnsupportedModel for work that the native kernels do not compute, whatever the formats are."""
    for program in work.programs():
        for item in alike(program):
            if item.op.kind == "attend":
                attend.check_native(item.op)


def plan_of(question: Question, steps: tuple[Step, ...], form: Form, cost: Cost, degradation: Degradation) -> Plan:
    """The plan that answers a question so."""
    machine = question.machine
    return Plan(
        model_name=question.model.name,
        model_digest=question.model.digest,
        parts=tuple(replace(part, blocks=()) for part in question.model.parts),
        machine_name=machine.name,
        machine_digest=machine.digest,
        machine_fingerprint=machine.fingerprint,
        machine_origin=machine.origin,
        budget=question.budget,
        threads=question.threads,
        steps=steps,
        form=form,
        cost=cost,
        degradation=degradation,
        notes=machine.notes,
    )


def _ordered(steps: Iterable[Step]) -> tuple[Step, ...]:
    ordered = tuple(sorted(steps, key=lambda step: (step.facet, step.target, step.name)))
    for one, other in combinations(ordered, 2):
        if one.facet == other.facet and one.clashes(other):
            raise UsageError(f"{one} and {other} both decide {one.facet.name.lower()}")
    return ordered
