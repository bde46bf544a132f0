"""What a model learned as a page: the curve of its losses, promised beside measured, memory by holder, and the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp
from pathlib import Path

from pintpot.proof.html import Figure, KeyFigures, Plot, Section, Table, Text, Verdict, write_report
from pintpot.proof.scale import Axis
from pintpot.proof.svg import Promise, Series, Stack, line_chart, memory_stacks, promise_bars
from pintpot.trainer.tune import Tuned
from pintpot.units import format_bytes, format_seconds

REPORT = "tuning.html"
MOST_POINTS = 40
"""Of the curve of training losses: more steps than that are drawn as means of several in a row."""

MOST_NATS = 700.0
"""More has no exponential."""


def write_learning_report(tuned: Tuned, path: Path | None = None) -> Path:
    """Write the report, into the folder of what was learned where no other place is named; return where it is."""
    train = tuned.plan.budget.workload.train
    size = ""
    if train is not None:
        each = f"{train.sequences} pictures" if train.of == "pictures" else f"{train.sequences} x {train.length} tokens"
        size = f", {each} each"
    under = f"{tuned.plan.machine_name}; {len(tuned.losses)} steps{size}"
    title = f"{tuned.plan.model_name}: what was learned"
    return write_report(path or tuned.folder / REPORT, title, list(_sections(tuned)), under)


def _sections(tuned: Tuned) -> Iterator[Section]:
    cost = tuned.plan.cost
    promises = _promises(tuned)
    yield KeyFigures(tuple(_figures(tuned, promises)))
    if tuned.losses or tuned.asked:
        yield Plot("Loss", loss_curve(tuned.losses, tuned.asked, tuned.train.unit), _how(len(tuned.losses)))
    yield Plot("Promised and measured", promise_bars(promises))
    yield _asked(tuned)
    promised = Stack("promised", tuple((h.name, float(h.high)) for h in cost.holders), float(_budget(tuned)))
    peak = Stack("measured", (("peak of the process", float(tuned.peak_bytes)),), float(_budget(tuned)))
    yield Plot("Memory by what holds it", memory_stacks((promised, peak), format_bytes))
    yield Text("The plan", tuple(f"{step}   {step.paper}" for step in tuned.plan.steps), code=True)
    if tuned.began_at:
        words = f"An earlier start took the first {tuned.began_at} steps; peak and seconds are of this one alone."
        yield Text("Notes", (words,))


def loss_curve(losses: Sequence[float], asked: Sequence[tuple[int, float]], unit: str = "word") -> str:
    """Training losses by step, their spread where several are one point, and the losses of what was held out."""
    width = -(-len(losses) // MOST_POINTS) or 1
    parts = [(first, losses[first : first + width]) for first in range(0, len(losses), width)]
    drawn = []
    if parts:
        points = tuple((first + (len(part) + 1) / 2, sum(part) / len(part)) for first, part in parts)
        spans = tuple((min(part), max(part)) for _, part in parts) if width > 1 else ()
        drawn.append(Series("training", points, spans=spans))
    if asked:
        labels = tuple(f"{loss:.3f}" for _, loss in asked)
        drawn.append(Series("held out", tuple((float(step), loss) for step, loss in asked), labels=labels))
    return line_chart(drawn, Axis("steps taken", "{:.4g}".format), Axis(f"nats a {unit}", "{:.3g}".format))


def _how(steps: int) -> str:
    width = -(-steps // MOST_POINTS) or 1
    own = "each point is a step" if width == 1 else f"each point is the mean of {width} steps, its line their spread"
    held = "Held out: the same examples each time, from which nothing is learned."
    return f"Training: {own}, on examples that change. {held}"


def _figures(tuned: Tuned, promises: Sequence[Promise]) -> Iterator[Figure]:
    if tuned.asked:
        (_, before), (_, after) = tuned.asked[0], tuned.asked[-1]
        held = Verdict(f"{after:.4f} nats", after < before if len(tuned.asked) > 1 else None)
        beside = f"; perplexity {_perplexity(before)} to {_perplexity(after)}" if not tuned.right else ""
        yield Figure("held out, after", held, f"{before:.4f} before{beside}")
    if tuned.right:
        (_, first), (_, last) = tuned.right[0], tuned.right[-1]
        better = last > first if len(tuned.right) > 1 else None
        yield Figure("told right", Verdict(f"{last:.1%}", better), f"{first:.1%} before")
    for one in promises:
        if one.measured is not None:
            yield Figure(one.label, Verdict(one.form(one.measured), one.holds), f"up to {one.form(one.high)} promised")
    yield Figure("speed", f"{tuned.tokens_per_s:.0f} {tuned.train.units}/s")


def _promises(tuned: Tuned) -> tuple[Promise, ...]:
    cost, peak, step_s = tuned.plan.cost, float(tuned.peak_bytes), tuned.step_s
    memory = Promise(
        "peak memory", format_bytes, float(cost.memory_low), float(cost.memory_high), peak, float(_budget(tuned)),
        peak <= cost.memory_high,
    )  # fmt: skip
    if not step_s:
        return (memory,)
    low, high = cost.step_s.low, cost.step_s.high
    return memory, Promise("a step", format_seconds, low, high, step_s, None, low <= step_s <= high)


def _perplexity(loss: float) -> str:
    return f"{exp(min(loss, MOST_NATS)):.4g}"


def _budget(tuned: Tuned) -> int:
    return tuned.plan.budget.memory_bytes


def _asked(tuned: Tuned) -> Table:
    unit, right = tuned.train.unit, dict(tuned.right)
    what, told = ("told right", lambda step, loss: f"{right[step]:.1%}") if right else ("perplexity", _words_of)
    rows = tuple((str(step), f"{loss:.4f}", told(step, loss)) for step, loss in tuned.asked)
    note = f"The mean over every {unit} that would be learned, in examples that were held out."
    return Table("What was held out", ("after steps", f"loss, nats a {unit}", what), rows, note=note)


def _words_of(_: int, loss: float) -> str:
    return _perplexity(loss)
