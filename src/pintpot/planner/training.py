"""Plans of learning: every way to teach a model inside a budget, priced from the ops that will run; the fastest wins.

The same forms, work, prices and plans as those of answering, on another road: PyTorch computes, so what counts beside
the weights are gradients, the optimizer's states, and what is kept from the way forward to the way back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

from pintpot.budget import Train, Workload
from pintpot.contract.form import Form, source_form
from pintpot.contract.resting import passing
from pintpot.contract.step import Facet, Step
from pintpot.errors import DoesNotFit, NotApplicable, UsageError, need
from pintpot.model.spec import Model, Part
from pintpot.nets._module_training import classifies, module_work, pictures_at_once
from pintpot.nets._moving import staying_here
from pintpot.nets._training import training_work
from pintpot.planner.assess import plan_of
from pintpot.planner.candidate import Candidate
from pintpot.planner.cost import ZERO, Cost, Span
from pintpot.planner.holders import learning_holders
from pintpot.planner.keeping import ACTIVATIONS, KEPT, RECOMPUTED, WRITTEN, settled, ways
from pintpot.planner.methods import BITS, METHODS, WIDTHS, ZEROTH, FewBits, learning, ways_of
from pintpot.planner.passed_over import others, rejected_of
from pintpot.planner.plan import Degradation, Plan, Rejected
from pintpot.planner.price import NO_RING, Prices, price_stage
from pintpot.planner.question import Question
from pintpot.planner.rates import Rates
from pintpot.planner.taken import ahead_bytes, aside_bytes, disk_bytes, float_bytes, rounding, rounding_s
from pintpot.program.spec import Stage, Work
from pintpot.techniques import classes
from pintpot.techniques.adapt.low_rank import LowRank
from pintpot.techniques.parallel.fully_sharded import FullySharded
from pintpot.techniques.place.offloaded import Offloaded, num_blocks
from pintpot.techniques.train.brain_float import BrainFloat
from pintpot.techniques.train.deep_optimizer_states import DeepOptimizerStates
from pintpot.techniques.train.kept import Kept
from pintpot.techniques.train.recompute import Recompute
from pintpot.techniques.train.sparse_backward import SparseBackward
from pintpot.techniques.train.zeroth_order import ZerothOrder
from pintpot.units import format_bytes, format_bytes_up

AUTO = "auto"
PART = "language"
STARTING_S = Span(0.5, 2.0, 8.0)
"""What beginning takes beside reading weights: PyTorch, the tokenizer, the examples."""
COUNTED_WITHIN = 1.2
"""How far what PyTorch does between products is counted off, to either side (benchmarks/tuning.py)."""


@dataclass(frozen=True)
class Asked:
    """What was asked beside the budget: the method, the adapters' knobs, and the arithmetic (auto: whichever is best).

    `data_bytes` are what the examples hold. `learn` says which part learns as `SparseBackward` does, "auto" for as many
    of the last blocks as fit; `also` are techniques beside that, `processes` how many learn together. Weights beside
    which qlora learns have `bits` bits a code. `activations` says what becomes of blocks' insides, "auto" for what is
    fastest; of the disk `room_bytes` are free, where that is known.
    """

    method: str = "auto"
    arithmetic: str = "auto"
    adapters: Step = field(default_factory=LowRank)
    data_bytes: int = 0
    learn: str = ""
    also: tuple[Step, ...] = ()
    processes: int = 1
    bits: int = BITS
    activations: str = AUTO
    room_bytes: int | None = None

    def __post_init__(self) -> None:
        ways = ("auto", *METHODS, ZEROTH)
        need(self.method in ways, f"no method {self.method!r}; there are {', '.join(ways)}", UsageError)
        kinds = ("auto", "float32", "bf16")
        need(self.arithmetic in kinds, f"no arithmetic {self.arithmetic!r}; {', '.join(kinds)}", UsageError)
        need(self.activations in ACTIVATIONS, f"activations are {', '.join(ACTIVATIONS)}", UsageError)
        need(self.method != ZEROTH or self.activations == AUTO, "without gradients there is no way back", UsageError)
        widths = ", ".join(map(str, WIDTHS))
        need(self.bits in WIDTHS, f"adapters learn beside weights in {widths} bits, not in {self.bits}", UsageError)


def make_training_plan(question: Question, asked: Asked) -> Plan:
    """The fastest way to learn that keeps the budget. Raises DoesNotFit with the smallest budget, UsageError."""
    learning_part(question.model)
    found = list(_candidates(question, asked))
    smallest = min((one.cost.memory_high for one in found), default=0)
    memory = question.budget.memory_bytes
    fitting = [one for one in found if one.cost.memory_high <= memory]
    if not fitting:
        raise DoesNotFit(
            f"learning needs {format_bytes_up(smallest)} at least, with one sequence at a time and weights read from "
            f"disk; the budget is {format_bytes(memory)}{_advice(question, asked)}"
        )
    # Where none has room on the disk, whoever writes says so.
    fitting = [one for one in fitting if asked.room_bytes is None or one.cost.pack_bytes <= asked.room_bytes] or fitting
    own = [one for one in fitting if one.way == fitting[0].way]
    best = min(own, key=lambda one: one.cost.total_s.mid)
    turns, alone = _in_turns(question, asked, best)
    best = min((best, *turns), key=lambda one: (one.cost.memory_high > memory, one.cost.total_s.mid))
    return _plan(question, asked, best, (*found, *turns), smallest, alone)


def _in_turns(question: Question, asked: Asked, one: Candidate) -> tuple[list[Candidate], tuple[Rejected, ...]]:
    """The same with updates in turns with a second device; or why there are no turns."""
    offered = DeepOptimizerStates.offers(question.model, question.machine, question.budget)
    name = DeepOptimizerStates.__name__
    if not offered:
        return [], (Rejected(name, "no second device is known here with which updates could take turns"),)
    turns = []
    for step in offered:
        try:
            step.check(question.model, one.form)
        except NotApplicable as error:
            return [], (Rejected(name, str(error)),)
        steps = (*one.steps[:-1], step, one.steps[-1])
        turns.append(_priced(question, asked, one.way, steps, step.promise(one.form)))
    return turns, ()


def _advice(question: Question, asked: Asked) -> str:
    """What fits where nothing does that was asked: the last blocks alone, or steps without gradients, if they do."""
    memory = question.budget.memory_bytes
    if asked.method == ZEROTH:
        return ""
    parts = _candidates(question, replace(asked, learn=AUTO)) if not asked.learn else ()
    part = next((one.way[1] for one in parts if one.cost.memory_high <= memory), "")
    told = f"; --learn {part} fits, with which that part of the model learns and nothing else" if part else ""
    others = _candidates(question, replace(asked, method=ZEROTH, learn=""))
    words = question.model.language is not None
    if asked.also or not words or not any(one.cost.memory_high <= memory for one in others):
        return told
    slow = "but takes far more steps to learn as much (its authors took 20,000 to 100,000)"
    return f"{told}; --method {ZEROTH} fits, which learns from losses alone, {slow}"


def learning_part(model: Model | Plan) -> Part:
    """The part that learns: the one of words, or the module that tells pictures apart. Raises UsageError for neither.

    Of a plan the same.
    """
    found = next((part for part in model.parts if part.name == PART or classifies(part)), None)
    if found is None:
        named = model.name if isinstance(model, Model) else model.model_name
        raise UsageError(f"{named} has no words to learn from, and tells no pictures apart")
    return found


def training_work_of(plan: Plan) -> Work:
    """The work of a plan, as it was priced."""
    part = learning_part(plan)
    return _work(part, plan.form, plan.budget.workload, plan.steps)


def _work(part: Part, form: Form, workload: Workload, steps: Sequence[Step]) -> Work:
    """The stages of learning, and the one in which what was held out is asked."""
    make = training_work if part.name == PART else module_work
    work, train = make(part, form, workload), workload.train or Train()
    for step in steps:
        work = step.rewrite(work, form)
    if any(stage.name == "ask" for stage in work.stages):
        return work
    forward = work.stage("forward")
    program = replace(staying_here(forward.programs[0]), name="ask")
    extent = forward.extents[0][0]
    times = train.evaluations * max(1, -(-train.held_out // train.sequences))
    return replace(work, stages=(*work.stages, Stage("ask", PART, (program,), ((extent, times),))))


def _candidates(question: Question, asked: Asked) -> Iterator[Candidate]:
    """Every way, in the order of preference where none was asked for."""
    model, source = question.model, source_form(question.model)
    words = model.language is not None
    few = FewBits(source, asked.bits, question.sensitivities)
    methods = ways_of(asked.method if words or asked.method != "auto" else "full", few)
    offered = [step for cls in classes().values() for step in cls.offers(model, question.machine, question.budget)]
    drawn = asked.method == ZEROTH
    at_once: list[Step] = [step for step in offered if isinstance(step, ZerothOrder if drawn else Recompute)]
    if not words:
        need(asked.arithmetic != "bf16", f"{model.name} learns in float32", UsageError)
        counts = sorted(pictures_at_once(learning_part(model)), reverse=True)
        need(asked.activations != WRITTEN, f"of {model.name} nothing is written out", UsageError)
        kinds = {KEPT: (Kept,), RECOMPUTED: (Recompute,)}.get(asked.activations, (Kept, Recompute))
        at_once = [cls(at_once=count) for cls in kinds for count in counts]
    optimizers = [(step,) for step in offered if step.facet == Facet.OPTIMIZER]
    arithmetic: list[tuple[Step, ...]] = []
    if asked.arithmetic != "bf16":
        arithmetic.append(())
    if asked.arithmetic != "float32" and words:
        arithmetic.append((BrainFloat(),))
    parts = [SparseBackward(learn=asked.learn)] if asked.learn not in ("", AUTO) else []
    parts += [step for step in offered if isinstance(step, SparseBackward)] if asked.learn == AUTO else []
    beside = (*asked.also, *((FullySharded(ranks=asked.processes),) if asked.processes > 1 else ()))
    chosen: list[tuple[SparseBackward, ...]] = [(part,) for part in parts]
    ways = product(methods, [*([()] if asked.learn in ("", AUTO) else []), *chosen])
    for method, part in ways:
        adapters = () if method in ("full", ZEROTH) else (asked.adapters,)
        first = (*learning(method, few), *adapters, *part)
        way = (method, *(one.learn for one in part))
        for kind, passes, optimizer in product(arithmetic, at_once, ((),) if drawn else optimizers):
            try:
                yield from _placed(question, asked, way, (*first, passes, *kind, *optimizer, *beside), source)
            except NotApplicable as error:
                if asked.method != "auto":
                    raise UsageError(f"{method}: {error}") from error


def _placed(
    question: Question, asked: Asked, way: tuple[str, ...], steps: tuple[Step, ...], source: Form
) -> Iterator[Candidate]:
    """One choice with as many blocks in RAM as the budget has room for; with none where it has not even that."""
    form = source
    for step in steps:
        step.check(question.model, form)
        form = step.promise(form)
    steps, form = settled(asked.activations, question.model, steps, form, source)
    most, how = num_blocks(form), form.training
    # What is watched while it learns stays in RAM, and so does what is shared out, or what no gradient tells how to
    # change.
    stays = bool(asked.also) or (how is not None and (how.ranks > 1 or how.distance > 0))
    stays = stays or learning_part(question.model).name != PART

    def at(resident: int) -> Candidate:
        place = Offloaded(resident=resident, learning=stays)
        place.check(question.model, form)
        return _priced(question, asked, way, (*steps, place), place.promise(form))

    def every(one: Candidate) -> Iterator[Candidate]:
        if asked.activations == AUTO:
            yield from ways(one, partial(_priced, question, asked, way), source, memory, asked.room_bytes)

    memory, whole = question.budget.memory_bytes, at(most)
    if stays and float_bytes(form, changed=False) == 0:
        yield from every(whole)
        yield whole
        return
    best = least = at(0)
    if whole.cost.memory_high <= memory:
        best = whole
    elif least.cost.memory_high <= memory:
        # What is read needs room of its own, so all blocks may take less than most of them.
        low, high = 0, most - 1
        while low < high:
            middle = (low + high + 1) // 2
            tried = at(middle)
            if tried.cost.memory_high <= memory:
                low, best = middle, tried
            else:
                high = middle - 1
    if best.cost.memory_high <= memory:
        yield from every(best)
    if best is not least:
        yield best
    # The least that this choice can do with, be it for the refusal.
    yield least


def _priced(question: Question, asked: Asked, way: tuple[str, ...], steps: tuple[Step, ...], form: Form) -> Candidate:
    part = learning_part(question.model)
    work = _work(part, form, question.budget.workload, steps)
    chunks = (int(op.get("chunk")) for one in work.programs() for op in one.ops if op.kind == "cross_entropy")
    tile = next(chunks, 0)
    passes = passing(form.weights, form.training, tile)
    ahead = ahead_bytes(form) + passes.values_bytes, passes.moments_bytes
    holders = learning_holders(question, work, form, asked.data_bytes, ahead)
    weight_bytes = sum(weight.num_values for weight in part.weights()) * 4
    footprint = next((size for size in question.machine.sizes("read") if size >= weight_bytes), weight_bytes)
    prices = Prices(Rates(question.machine, question.threads, footprint))
    priced = (price_stage(stage.programs[0], prices, stage.extents) for stage in work.stages)
    stages = tuple(replace(stage, seconds=stage.seconds.widened(COUNTED_WITHIN)) for stage in priced)
    reading = prices.rates.disk(question.model.num_bytes, NO_RING.slot_bytes, NO_RING.in_flight)
    counts = form.weights.num_values.items()
    values = sum((prices.rates.converting(name, count) for name, count in counts), ZERO)
    begin = reading + values + STARTING_S + rounding_s(form, steps, prices.rates)
    holders += rounding(question, form, steps, holders)
    cost = Cost(holders, stages, begin, ZERO, disk_bytes(form, holders) + aside_bytes(form, work))
    return Candidate(way, steps, form, cost)


def _plan(
    question: Question,
    asked: Asked,
    best: Candidate,
    found: Sequence[Candidate],
    smallest: int,
    alone: tuple[Rejected, ...],
) -> Plan:
    lost = others(best, found, question.budget.memory_bytes)
    rejected = [rejected_of(question, best, one, asked.room_bytes) for one in lost]
    rejected.sort(key=lambda one: one.total_s or 0.0)
    plan = plan_of(question, best.steps, best.form, best.cost, Degradation(0.0, 0.0))
    work = training_work_of(plan)
    notes = (*plan.notes, *(note for step in best.steps for note in step.told(work)))
    return replace(plan, notes=notes, rejected=(*rejected, *alone), smallest_bytes=smallest)
