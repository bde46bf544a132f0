"""A plan as people read it: memory by holder, speed and what binds, steps, why the others lost, and advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pintpot.cli.tables import ACCENT, BAD, GOOD, MUTED, STRONG, WARN, pairs, table
from pintpot.cli.terminal import safe
from pintpot.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from pintpot.planner.cost import Span, StageCost
    from pintpot.planner.plan import Plan

_SHOWN = 8
_BAR = 20
_MOST_WIDE = 100
# In the order of the holders, and round again.
_COLOURS = ("blue", "cyan", "green", "yellow", "magenta", "bright_blue", "bright_cyan", "bright_green", "bright_yellow")


def show_plan(plan: Plan, console: Console, everything: bool = False) -> None:
    """Print a plan; `everything` shows every alternative that lost, not the nearest alone."""
    width = min(console.width, _MOST_WIDE)
    console.print(head(plan), width=width)
    console.print(memory(plan, width), width=width)
    console.print(speed(plan), width=width)
    console.print(steps(plan), width=width)
    if plan.rejected:
        console.print(lost(plan, everything), width=width)
    console.print(advice(plan), width=width)
    for note in plan.notes:
        console.print(safe(note), style=WARN, width=width)


def head(plan: Plan) -> Panel:
    """What runs where, and what was asked."""
    from rich.panel import Panel
    from rich.text import Text

    origin = {"measured": "measured here", "quick": "measured here, quickly", "catalog": "from data sheets"}
    text = Text()
    text.append(safe(plan.model_name), STRONG)
    text.append(f" in {format_bytes(plan.budget.memory_bytes)}\n", f"{STRONG} {ACCENT}")
    text.append(f"on {safe(plan.machine_name)}, {plan.threads} threads, {origin[plan.machine_origin]}\n")
    for index, (name, value, chosen) in enumerate(_asked(plan)):
        text.append(("" if index == 0 else " · ") + name + " ", MUTED)
        text.append(value)
        text.append("" if chosen else "*", MUTED)
    text.append("   * by default", MUTED)
    return Panel(text, border_style=ACCENT, padding=(0, 1))


def _asked(plan: Plan) -> list[tuple[str, str, bool]]:
    budget, work = plan.budget, plan.budget.workload
    rows = [
        ("memory", format_bytes(budget.memory_bytes), "memory_bytes" in budget.chosen),
        ("context", f"{work.context:,}", "context" in budget.chosen),
        ("batch", str(work.batch), "batch" in budget.chosen),
        ("prompt", str(work.prompt), "prompt" in budget.chosen),
        ("output", str(work.output), "output" in budget.chosen),
        ("degradation", f"≤ {budget.degradation:g} nats", "degradation" in budget.chosen),
        ("prefer", budget.prefer, "prefer" in budget.chosen),
    ]
    for name, limit in (("first token", budget.first_token_s), ("per token", budget.per_token_s)):
        if limit is not None:
            rows.append((name, f"≤ {format_seconds(limit)}", True))
    return rows


def memory(plan: Plan, width: int) -> Text:
    """Who holds memory, each bar starting where the one above ends, up to the budget."""
    from rich.text import Text

    from pintpot.proof.tables import memory_bar

    holders = [(holder.name, float(holder.high)) for holder in plan.cost.holders if holder.high > 0]
    lines = memory_bar(holders, plan.budget.memory_bytes, width).splitlines()
    text = Text("\nmemory, at most\n", STRONG)
    for index, line in enumerate(lines):
        style = _COLOURS[index % len(_COLOURS)] if index < len(holders) else STRONG
        for letter in line:
            text.append(letter, style if letter in "█▏▎▍▌▋▊▉" else MUTED if letter == "│" else "default")
        text.append("\n")
    on_disk = plan.form.disk_bytes
    if on_disk:
        text.append(f"{format_bytes(on_disk)} of the weights rest on disk and are read during every step\n", WARN)
    return text


def speed(plan: Plan) -> Table:
    """Each stage: its speed, and what each resource alone would take of its time."""
    cost = plan.cost
    made = table("", "low", "", "high", "what binds", "", title="speed", right=(1, 3))
    for stage in cost.stages:
        first = True
        for name, seconds in sorted(stage.bound_s, key=lambda pair: -pair[1]):
            label, low, to, high = _rates(stage) if first else ("", "", "", "")
            made.add_row(label, low, to, high, name, _share_bar(seconds, stage, name == stage.binds))
            first = False
    made.add_row("")
    made.add_row("first word, pack open", *_span(cost.first_token_s))
    made.add_row("opening the pack", *_span(cost.open_s))
    made.add_row("packing, once", *_span(cost.pack_s), "disk", f"{format_bytes(cost.pack_bytes)}")
    return made


def _rates(stage: StageCost) -> tuple[str, str, str, str]:
    rate = stage.tokens_per_s
    return f"{stage.name}, {stage.tokens:,} tokens", f"{rate.low:,.4g}", "to", f"{rate.high:,.4g} tok/s"


def _span(span: Span) -> tuple[str, str, str]:
    return format_seconds(span.low), "to", format_seconds(span.high)


def _share_bar(seconds: float, stage: StageCost, binds: bool) -> Text:
    from rich.text import Text

    share = min(1.0, seconds / stage.seconds.mid) if stage.seconds.mid else 0.0
    text = Text("█" * round(share * _BAR) or "▏", BAD if binds else ACCENT)
    text.append(f" {format_seconds(seconds)}", "default")
    return text


def steps(plan: Plan) -> Table:
    """The techniques chosen, in the order in which they apply."""
    made = table("", "", "", title="steps", wide=1)
    made.show_header = False
    for step in plan.steps:
        made.add_row("•", safe(str(step)), safe(step.paper))
    made.columns[0].style = GOOD
    made.columns[2].style = MUTED
    return made


def lost(plan: Plan, everything: bool) -> Table:
    """The alternatives that lost, and why, with their figures."""
    made = table("instead", "why not", "memory", "time", "nats", title="what lost", right=(2, 3, 4), wide=1)
    shown = plan.rejected if everything else plan.rejected[:_SHOWN]
    for one in shown:
        made.add_row(
            safe(one.what),
            safe(one.reason),
            "" if one.memory_bytes is None else format_bytes(one.memory_bytes),
            "" if one.total_s is None else format_seconds(one.total_s),
            "" if one.degradation is None else f"{one.degradation:.2g}",
        )
    if len(shown) < len(plan.rejected):
        made.caption = f"and {len(plan.rejected) - len(shown)} more; -v shows all"
        made.caption_justify = "left"
    return made


def advice(plan: Plan) -> Table:
    """Quality, and what other budgets would bring."""
    known = "measured" if plan.degradation.measured else "expected; `pintpot prove` measures it"
    low, high = plan.degradation.low, plan.degradation.high
    now = plan.cost.total_s.mid
    rows = [("quality", f"{low:.2g} to {high:.2g} nats a token worse than the model as it came ({known})")]
    for one in plan.advice:
        gain = now / one.total_s if one.total_s else 1.0
        change = f"{gain:.3g} times as fast" if gain > 1.005 else "nothing gained"
        rows.append((one.what, f"{format_bytes(one.memory_bytes)}: {change}"))
    if plan.smallest_bytes:
        rows.append(("smallest possible", format_bytes(plan.smallest_bytes)))
    return pairs(rows, title="what else")
