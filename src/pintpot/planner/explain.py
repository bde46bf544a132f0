"""A plan in plain rows, for the terminal, the README and the report: what it costs, what binds, what lost and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pintpot.budget import Train
from pintpot.model.joined import ASIDE
from pintpot.planner.calibrating import TOKENS
from pintpot.planner.cost import Span, StageCost
from pintpot.planner.guessing import OFFERED
from pintpot.planner.plan import NATS, Advice, Plan, Rejected
from pintpot.units import format_bytes, format_bytes_up, format_rate, format_seconds

ORIGINS = {
    "measured": "measured here",
    "quick": "measured here for 2 seconds only",
    "catalog": "from data sheets, not measured",
}

EXPECTED = {
    True: "added up over this model's own weights; `pintpot prove` measures it",
    False: "expected from other models; `pintpot calibrate` looks at this one, `pintpot prove` measures it",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """One setting of the budget; `chosen` by the person, or the default."""

    name: str
    value: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """Bytes of one holder, low..high, and its share of the budget at the high end."""

    holder: str
    low: int
    high: int
    share: float


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One figure, at its slow and at its fast end, and what it waits for where that is known."""

    what: str
    slow: str
    fast: str
    binds: str = ""


@dataclass(frozen=True, slots=True)
class LostRow:
    """Alternatives that lost for one reason; figures are None where they never came to a price."""

    what: str
    reason: str
    memory_bytes: int | None = None
    total_s: float | None = None
    degradation: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything there is to say about a plan, section by section."""

    title: str
    asked: tuple[Asked, ...]
    memory: tuple[MemoryRow, ...]
    memory_total: MemoryRow
    speed: tuple[SpeedRow, ...]
    binds: tuple[str, ...]
    quality: str
    packing: str
    steps: tuple[tuple[str, str], ...]
    lost: tuple[LostRow, ...]
    advice: str
    smallest: str
    notes: tuple[str, ...]


def explain(plan: Plan) -> Explanation:
    """The rows of a plan; those that lost are in the order in which they nearly won."""
    cost, budget = plan.cost, plan.budget
    origin = ORIGINS[plan.machine_origin]
    memory = tuple(MemoryRow(h.name, h.low, h.high, h.high / budget.memory_bytes) for h in cost.holders if h.high)
    total = MemoryRow("in all", cost.memory_low, cost.memory_high, cost.memory_high / budget.memory_bytes)
    return Explanation(
        title=f"{plan.model_name} in {format_bytes(budget.memory_bytes)} on {plan.machine_name} ({origin})",
        asked=_asked(plan),
        memory=memory,
        memory_total=total,
        speed=_speed(plan),
        binds=tuple(_binds(stage) for stage in cost.stages),
        quality=_quality(plan),
        packing=_packing(plan),
        steps=tuple((str(step), step.paper) for step in plan.steps),
        lost=_lost(plan),
        advice=_advice(plan),
        smallest=f"the smallest possible budget is {format_bytes_up(plan.smallest_bytes)}"
        if plan.smallest_bytes
        else "",
        notes=plan.notes,
    )


def _asked(plan: Plan) -> tuple[Asked, ...]:
    budget, work = plan.budget, plan.budget.workload
    words = [
        ("context", f"{work.context} tokens", "context"),
        ("batch", str(work.batch), "batch"),
        ("prompt", f"{work.prompt} tokens", "prompt"),
        ("output", f"{work.output} tokens", "output"),
    ]
    quality = [
        ("degradation", f"at most {budget.degradation:g} {_unit(plan)}", "degradation"),
        ("prefer", budget.prefer, "prefer"),
    ]
    rows = [
        ("memory", format_bytes(budget.memory_bytes), "memory_bytes"),
        *(words if work.task == "chat" else ()),
        *(_learning(work.train) if work.train is not None else ()),
        *([("steps", str(work.output), "output")] if work.task == "denoise" else []),
        *(quality if work.train is None else ()),
        ("threads", str(plan.threads), "threads"),
    ]
    if budget.first_token_s is not None:
        rows.append(("first token", f"within {format_seconds(budget.first_token_s)}", "first_token_s"))
    if budget.per_token_s is not None:
        rows.append(("per token", f"within {format_seconds(budget.per_token_s)}", "per_token_s"))
    return tuple(Asked(name, value, key in budget.chosen) for name, value, key in rows)


def _learning(train: Train) -> list[tuple[str, str, str]]:
    if train.of == "pictures":
        return [
            ("each step", f"{train.sequences} pictures", "sequences"),
            ("steps", str(train.steps), "steps"),
            ("held out", f"{train.held_out} pictures", "held_out"),
        ]
    return [
        ("sequences", f"{train.length} tokens", "length"),
        ("each step", f"{train.sequences} sequences", "sequences"),
        ("steps", str(train.steps), "steps"),
        ("held out", f"{train.held_out} sequences", "held_out"),
    ]


def _speed(plan: Plan) -> tuple[SpeedRow, ...]:
    cost = plan.cost
    rows = []
    for stage in cost.stages:
        rate = stage.tokens_per_s
        counted = plan.budget.workload.rate_unit == "tokens/s" and not sees(stage)
        unit = "tok/s" if counted else "/s"
        rows.append(SpeedRow(stage.name, format_rate(rate.low, unit), format_rate(rate.high, unit), stage.binds))
    ends = {
        "chat": (("first token", cost.first_token_s), ("each token", cost.per_token_s)),
        "denoise": (("each step", cost.per_token_s), ("each picture", cost.total_s)),
        "train": (("each step", cost.step_s), ("in all", cost.total_s)),
    }
    one = ends.get(plan.budget.workload.task, (("each answer", cost.per_token_s),))
    for what, span in (*one, ("opening", cost.open_s)):
        rows.append(SpeedRow(what, format_seconds(span.high), format_seconds(span.low)))
    if cost.guessing is not None:
        gain = cost.guessing
        known = "as they were right before" if gain.measured else "how often they are right was not measured"
        known += "" if plan.budget.workload.guesses else f"; with --guesses {OFFERED}"
        rows.append(SpeedRow("guessed words, looked up", f"{gain.low:.3g} times", f"{gain.high:.3g} times", known))
    if cost.page_s.high:
        rows.append(
            SpeedRow("a page of the cache to disk", format_seconds(cost.page_s.high), format_seconds(cost.page_s.low))
        )
    return tuple(rows)


def sees(stage: StageCost) -> bool:
    """Whether a stage looks at pictures and reads no tokens."""
    return stage.name.startswith(ASIDE)


def _binds(stage: StageCost) -> str:
    alone = dict(stage.bound_s)
    others = sorted(((s, what) for what, s in alone.items() if what != stage.binds and s), reverse=True)
    text = f"{stage.name} waits for {stage.binds}: {format_seconds(alone[stage.binds])} of it"
    return text + (f"; next comes {others[0][1]} with {format_seconds(others[0][0])}" if others else "")


def _quality(plan: Plan) -> str:
    found = plan.degradation
    if plan.budget.workload.train is not None:
        return ""
    words = f" on {found.num_tokens} words" if found.num_tokens else ""
    known = f"measured{words}" if found.measured else EXPECTED[found.summed]
    if not max(found.high, found.prefill_high):
        return f"no degradation, {known}"
    answers = f"{_from_to(found.low, found.high)} {_unit(plan)} of degradation"
    if (found.prefill_low, found.prefill_high) == (found.low, found.high):
        return f"{answers}, {known}"
    return f"{answers} in answers, {_from_to(found.prefill_low, found.prefill_high)} while a prompt is read, {known}"


def _from_to(low: float, high: float) -> str:
    least, most = f"{low:.2g}", f"{high:.2g}"
    return least if least == most else f"{least} to {most}"


def _unit(plan: Plan) -> str:
    return "nats a token" if plan.degradation.unit == NATS else plan.degradation.unit


def _packing(plan: Plan) -> str:
    cost = plan.cost
    if plan.budget.workload.train is not None:
        how, steps = plan.form.training, plan.budget.workload.train.steps
        aside = ", what is learned and activations" if how is not None and how.written else " and what is learned"
        taken = f"checkpoints{aside} take up to {format_bytes(cost.pack_bytes)} of disk"
        read, written = cost.step_disk_bytes
        moved = f"; a step reads {format_bytes(round(read))} of it and writes {format_bytes(round(written))}"
        moved += f", all steps {format_bytes(round(steps * written))}"
        return taken + (moved if written else "")
    taken = f"packing takes {_range(cost.pack_s)} once"
    if cost.calibrate_s.high:
        texts = f"{_range(cost.calibrate_s)} of it to look at {TOKENS:,} tokens of text before rounding"
        taken = f"{taken}, {texts}"
    return f"{taken}, and {format_bytes(cost.pack_bytes)} of disk"


def _lost(plan: Plan) -> tuple[LostRow, ...]:
    """First what would have been better but broke a limit, then by how little it lost; one row for each bare reason."""
    now = plan.cost.total_s.mid
    priced = [item for item in plan.rejected if item.total_s is not None]
    bare: dict[str, list[Rejected]] = {}
    for item in plan.rejected:
        if item.total_s is None:
            bare.setdefault(item.reason, []).append(item)
    priced.sort(key=lambda item: (not _is_tempting(item, now), item.total_s))
    rows = [LostRow(r.what, r.reason, r.memory_bytes, r.total_s, r.degradation) for r in priced]
    return (*rows, *(LostRow(_names(items), reason) for reason, items in bare.items()))


def _is_tempting(item: Rejected, now: float) -> bool:
    return item.total_s is not None and item.total_s < now


def _names(items: Iterable[Rejected]) -> str:
    return ", ".join(item.what for item in items)


def _advice(plan: Plan) -> str:
    """One sentence: "10% more memory (264 MB) would bring 1.04 times the speed; at 188 MB everything stays in RAM"."""
    now = plan.cost.total_s.mid
    parts = []
    for index, item in enumerate(plan.advice):
        gain = _gain(item, now)
        if index == 0:
            parts.append(f"{item.what} ({format_bytes(item.memory_bytes)}) would bring {gain}")
        else:
            parts.append(f"at {format_bytes(item.memory_bytes)} {item.what}: {gain}")
    return "; ".join(parts)


def _gain(item: Advice, now: float) -> str:
    ratio = now / item.total_s if item.total_s else 1.0
    if ratio > 1.005:
        return f"{ratio:.3g} times the speed"
    return "nothing" if ratio > 0.995 else f"{ratio:.3g} times the speed, in exchange for quality"


def _range(span: Span) -> str:
    low, high = format_seconds(span.low), format_seconds(span.high)
    return low if low == high else f"{low} to {high}"
