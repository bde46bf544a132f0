"""Verdicts: what was measured held against what was promised.

A promise of speed is kept or broken by the median of the runs; one of quality only where the whole interval of the mean
lies on one side of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pintpot.meter.agreement import Agreement, tokens_to_decide
from pintpot.meter.clock import median
from pintpot.meter.likeness import Likeness
from pintpot.meter.overlap import Agreed
from pintpot.model.joined import ASIDE
from pintpot.planner.cost import Span
from pintpot.planner.names import LOADER
from pintpot.planner.plan import NATS, Plan
from pintpot.proof.proof import HolderRow, Peak, Proof, Row, StepQuality


@dataclass(frozen=True)
class Measured:
    """The raw answers of a proof's processes."""

    opened: dict[str, Any]
    runs: tuple[dict[str, Any], ...]
    limits: tuple[dict[str, Any], ...]
    peaks: dict[str, int] = field(default_factory=dict)
    profile: dict[str, Any] | None = None

    @property
    def held(self) -> dict[str, int]:
        """Bytes by holder; what came after the opening (code that ran for the first time) counts with it."""
        held: dict[str, int] = dict(self.opened["held"])
        held[LOADER] = held.get(LOADER, 0) + max(run["grown_bytes"] for run in self.runs)
        return held


@dataclass(frozen=True, slots=True)
class Quality:
    """Agreement with the unpacked model; None where it was not measured.

    `answers` is that of words decoded one by one after a prompt, `prompts` that of all words read as a prompt; both
    `of_weights` in float32 arithmetic. `steps` where they were asked for. Where there are no words, `likeness` is that
    of each output, or of what a kind's answers are judged by; `agreements` are in that kind's own measures.
    """

    answers: Agreement | None = None
    prompts: Agreement | None = None
    answers_of_weights: Agreement | None = None
    prompts_of_weights: Agreement | None = None
    steps: tuple[StepQuality, ...] = ()
    likeness: tuple[Likeness, ...] = ()
    agreements: tuple[Agreed, ...] = ()


def judge(pack: Path, digest: str, plan: Plan, measured: Measured, quality: Quality, num_runs: int) -> Proof:
    """Rows, holders and peaks of a proof, each with its verdict."""
    cost = plan.cost
    rows = [
        _memory(plan, measured),
        *(_of_words if plan.budget.workload.task == "chat" else _of_module)(plan, measured),
        _seconds("opening", cost.open_s, [measured.opened["open_s"]]),
        *_quality(plan, quality),
    ]
    if plan.form.disk_bytes:
        rows.append(_disk(plan, measured))
    held = measured.held
    holders = tuple(HolderRow(h.name, h.low, h.high, held.get(h.name)) for h in cost.holders)
    peaks = tuple(Peak(name, peak, plan.budget.memory_bytes) for name, peak in measured.peaks.items())
    return Proof(
        pack=pack,
        pack_digest=digest,
        model_name=plan.model_name,
        machine_name=plan.machine_name,
        rows=tuple(rows),
        holders=holders,
        peaks=peaks,
        answers=quality.answers,
        prompts=quality.prompts,
        answers_of_weights=quality.answers_of_weights,
        prompts_of_weights=quality.prompts_of_weights,
        steps=quality.steps,
        likeness=quality.likeness,
        agreements=quality.agreements,
        binds=cost.stages[-1].binds,
        num_runs=num_runs,
        environment={},
        notes=tuple(measured.opened["notes"]),
        profile=_profile(plan, measured),
    )


def _memory(plan: Plan, measured: Measured) -> Row:
    peak = measured.peaks["measured run"]
    holds = peak <= plan.cost.memory_high
    return Row("memory", "bytes", plan.cost.memory_low, plan.cost.memory_high, peak, peak, peak, holds=holds)


def _of_words(plan: Plan, measured: Measured) -> Iterator[Row]:
    yield _speed("prefill", plan, measured)
    yield _speed("decode", plan, measured)
    yield _seconds("first token", plan.cost.first_token_s, [run["first_token_s"] for run in measured.runs])
    for stage in plan.cost.stages:
        if stage.name.startswith(ASIDE):
            yield _seconds("pictures", stage.seconds, [run["see_s"] for run in measured.runs])


def _of_module(plan: Plan, measured: Measured) -> Iterator[Row]:
    """Answers a second, beside reading all weights, or all products at the int8 peak, whichever is longer."""
    stage, seen = plan.cost.stages[-1], [1 / run["step_s"] for run in measured.runs]
    floors = [_decode_floor_s(plan, limit) for limit in measured.limits]
    middle, promised = median(seen), stage.tokens_per_s
    spread = (middle, min(seen), max(seen), 1 / median(floors))
    unit = plan.budget.workload.rate_unit
    yield Row(stage.name, unit, promised.low, promised.high, *spread, holds=middle >= promised.low)
    if unit == "steps/s":
        steps = plan.budget.workload.output
        yield _seconds("picture", plan.cost.total_s, [steps * run["step_s"] for run in measured.runs])


def _speed(stage: str, plan: Plan, measured: Measured) -> Row:
    promised = plan.cost.stage(stage).tokens_per_s
    if stage == "decode":
        seen = [run["step_tokens"] / run["step_s"] for run in measured.runs]
        limits = [plan.budget.workload.batch / _decode_floor_s(plan, limit) for limit in measured.limits]
    else:
        seen = [run["prompt_tokens"] / (run["first_token_s"] - run.get("see_s", 0.0)) for run in measured.runs]
        limits = [_prefill_limit(plan, limit) for limit in measured.limits]
    middle = median(seen)
    return Row(
        stage,
        "tokens/s",
        promised.low,
        promised.high,
        middle,
        min(seen),
        max(seen),
        median(limits),
        middle >= promised.low,
    )


def _step_bytes(plan: Plan) -> float:
    """Bytes in RAM that a step reads at least: of experts those that one token chooses."""
    routed = sum(weight.ram_bytes for weight in plan.form.weights if weight.experts > 1)
    share = plan.config["num_experts_per_tok"] / plan.config["num_experts"] if routed else 1.0
    return plan.form.ram_bytes - (1 - share) * routed


def _decode_floor_s(plan: Plan, limit: dict[str, Any]) -> float:
    """Of a step, the longest of reading what rests in RAM, reading what streams, and multiplying, at loops' rates."""
    stage = plan.cost.stages[-1]
    ram = _step_bytes(plan) / float(limit["ram_bytes_per_s"])
    arithmetic = stage.multiply_adds / stage.replays / float(limit["int8_per_s"])
    disk = stage.disk_bytes_per_replay
    return max(ram, arithmetic, disk / float(limit["disk_bytes_per_s"]) if disk else 0.0)


def _prefill_limit(plan: Plan, limit: dict[str, Any]) -> float:
    stage = plan.cost.stage("prefill")
    arithmetic = stage.multiply_adds / float(limit["int8_per_s"])
    disk = stage.disk_bytes / float(limit["disk_bytes_per_s"]) if stage.disk_bytes else 0.0
    return stage.tokens / max(arithmetic, disk)


def _seconds(what: str, promised: Span, seen: list[float]) -> Row:
    middle = median(seen)
    return Row(
        what, "seconds", promised.low, promised.high, middle, min(seen), max(seen), holds=middle <= promised.high
    )


def _quality(plan: Plan, quality: Quality) -> Iterator[Row]:
    promised = plan.degradation
    if promised.unit != NATS:
        worst = max(quality.likeness, key=lambda one: one.lacking.high, default=None)
        yield _alike("degradation", promised.low, promised.high, worst)
        yield _alike("limit of degradation", 0.0, plan.budget.degradation, worst)
        return
    yield _agreed("degradation", promised.low, promised.high, quality.answers)
    yield _agreed("limit of degradation", 0.0, plan.budget.degradation, quality.answers)
    yield _agreed("prompt degradation", promised.prefill_low, promised.prefill_high, quality.prompts)


def _agreed(what: str, low: float, high: float, agreement: Agreement | None) -> Row:
    if agreement is None:
        return Row(what, "nats", low, high, None)
    kl = agreement.kl
    holds = kl.below(high)
    needed = tokens_to_decide(agreement, high) if holds is None else None
    return Row(what, "nats", low, high, kl.mean, kl.low, kl.high, holds=holds, needed=needed)


def _alike(what: str, low: float, high: float, found: Likeness | None) -> Row:
    """Of the output that lacks most."""
    if found is None:
        return Row(what, "of cosine", low, high, None)
    span = found.lacking
    return Row(what, "of cosine", low, high, span.mean, span.low, span.high, holds=span.below(high))


def _disk(plan: Plan, measured: Measured) -> Row:
    ring = plan.form.ring
    low, high = plan.cost.stages[-1].reads_per_replay(ring.num_bytes if ring else 0)
    seen = [run["disk_bytes_per_step"] for run in measured.runs]
    middle = median(seen)
    # Where the page cache is in between, the kernel counts what it had to fetch and not what was read.
    holds = 0.99 * low <= middle <= 1.01 * high if measured.opened["direct"] else None
    return Row("disk reads per token", "bytes", low, high, middle, min(seen), max(seen), holds=holds)


def _profile(plan: Plan, measured: Measured) -> tuple[tuple[str, float, float], ...]:
    """(op, seconds a step, floor seconds) of every op of a decode step, floors at the measured RAM rate."""
    if measured.profile is None:
        return ()
    from pintpot.nets._extents import lengths
    from pintpot.planner.rebuild import rebuild_work
    from pintpot.program.ops import op_module
    from pintpot.program.spec import Extent

    batch, (prompt, output) = plan.budget.workload.batch, lengths(plan.budget.workload)
    program = rebuild_work(plan).stage("decode").programs[0]
    extent = Extent(batch, batch, batch, prompt + output // 2)
    rate = median([limit["ram_bytes_per_s"] for limit in measured.limits])
    rows = []
    for op, seconds in zip(program.ops, measured.profile["seconds"], strict=True):
        floor = op_module(op.kind).demand(op, program, extent).ram_bytes / rate if op.lane == "compute" else 0.0
        names = op.read_all("weight") or (op.read("k") or "",)
        rows.append((f"{op.kind} {' '.join(names)}".strip(), float(seconds), floor))
    return tuple(rows)
