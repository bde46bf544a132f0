"""A plan as people read it: memory by holder, speed and what binds, steps, why the others lost, and advice.

The words are those of `planner.explain`; what stands here is how they look on a terminal.
"""

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

    from pintpot.planner.cost import StageCost
    from pintpot.planner.explain import Explanation
    from pintpot.planner.plan import Plan

_SHOWN = 8
_BAR = 14
_NARROW_BAR = 8
_MOST_WIDE = 100
# In the order of the holders, and round again.
_COLOURS = ("blue", "cyan", "green", "yellow", "magenta", "bright_blue", "bright_cyan", "bright_green", "bright_yellow")


def show_plan(plan: Plan, console: Console, everything: bool = False) -> None:
    """Print a plan; `everything` shows every alternative that lost, not those alone that nearly won."""
    from pintpot.planner.explain import explain

    told = explain(plan)
    width = min(console.width, _MOST_WIDE)
    console.print(head(told), width=width)
    console.print(memory(plan, width), width=width)
    console.print(speed(plan, told, _BAR if width >= _MOST_WIDE else _NARROW_BAR), width=width)
    console.print(steps(told), width=width)
    if told.lost:
        console.print(lost(told, everything), width=width)
    console.print(advice(told), width=width)
    for note in told.notes:
        console.print(safe(note), style=WARN, width=width)


def head(told: Explanation) -> Panel:
    """What runs where, and what was asked."""
    from rich.panel import Panel
    from rich.text import Text

    text = Text(safe(told.title) + "\n", STRONG)
    for index, one in enumerate(told.asked):
        text.append(("" if index == 0 else " · ") + one.name + " ", MUTED)
        text.append(one.value, "default" if one.chosen else "italic")
        text.append("" if one.chosen else "*", MUTED)
    text.append("   * by default", MUTED)
    return Panel(text, border_style=ACCENT, padding=(0, 1))


def memory(plan: Plan, width: int) -> Text:
    """Who holds memory, each bar starting where the one above ends, up to the budget."""
    from rich.text import Text

    from pintpot.proof.tables import memory_bar

    holders = [(holder.name, float(holder.high)) for holder in plan.cost.holders if holder.high > 0]
    lines = memory_bar(holders, plan.budget.memory_bytes, width).splitlines()
    text = Text("\n")
    text.append("memory, at most\n", STRONG)
    for index, line in enumerate(lines):
        style = _COLOURS[index % len(_COLOURS)] if index < len(holders) else STRONG
        for letter in line:
            text.append(letter, style if letter in "█▏▎▍▌▋▊▉" else MUTED if letter == "│" else "default")
        text.append("\n")
    on_disk = plan.form.disk_bytes
    if on_disk:
        chosen = any(weight.experts > 1 and weight.disk_bytes for weight in plan.form.weights)
        when = "; each step reads of experts the chosen" if chosen else " and are read during every step"
        text.append(f"{format_bytes(on_disk)} of the weights rest on disk{when}\n", WARN)
    return text


def speed(plan: Plan, told: Explanation, bar: int = _BAR) -> Table:
    """Each figure from slow to fast, and for the stages what each resource alone would take of the time."""
    from pintpot.planner.explain import sees

    made = table("", "slow", "", "fast", "waits for", "alone", title="speed", right=(1, 2, 3, 5))
    made.columns[5].justify = "left"
    stages = {stage.name: stage for stage in plan.cost.stages}
    noun = plan.budget.workload.rate_unit.removesuffix("/s")
    for row in told.speed:
        stage = stages.get(row.what)
        if stage is None:
            made.add_row(row.what, row.slow, "to", row.fast)
            continue
        counted = "pictures" if sees(stage) else noun
        figures = [f"{row.what}, {stage.tokens:,} {counted}", row.slow, "to", row.fast]
        for name, seconds in sorted(stage.bound_s, key=lambda pair: -pair[1]):
            made.add_row(*figures, name, _share_bar(seconds, stage, bar, name == stage.binds))
            figures = ["", "", "", ""]
    return made


def _share_bar(seconds: float, stage: StageCost, bar: int, binds: bool) -> Text:
    from rich.text import Text

    share = min(1.0, seconds / stage.seconds.mid) if stage.seconds.mid else 0.0
    text = Text("█" * round(share * bar) or "▏", BAD if binds else ACCENT)
    text.append(f" {format_seconds(seconds)}", "default")
    return text


def steps(told: Explanation) -> Table:
    """The techniques chosen, in the order in which they apply."""
    made = table("", "", "", title="steps", wide=1)
    made.show_header = False
    for step, paper in told.steps:
        made.add_row("•", safe(step), safe(paper))
    made.columns[0].style = GOOD
    made.columns[2].style = MUTED
    return made


def lost(told: Explanation, everything: bool) -> Table:
    """The alternatives that lost, and why, with their figures."""
    made = table("instead", "why not", "memory", "time", "nats", title="what lost", right=(2, 3, 4), wide=1)
    made.columns[0].no_wrap, made.columns[0].overflow, made.columns[0].ratio = False, "fold", 1
    shown = told.lost if everything else told.lost[:_SHOWN]
    for one in shown:
        made.add_row(
            safe(one.what),
            safe(one.reason),
            "" if one.memory_bytes is None else format_bytes(one.memory_bytes),
            "" if one.total_s is None else format_seconds(one.total_s),
            "" if one.degradation is None else f"{one.degradation:.2g}",
        )
    if len(shown) < len(told.lost):
        made.caption = f"and {len(told.lost) - len(shown)} more; -v shows all"
        made.caption_justify = "left"
    return made


def advice(told: Explanation) -> Table:
    """Quality, packing, and what other budgets would bring."""
    rows = (("quality", told.quality), ("once", told.packing), ("more", told.advice), ("less", told.smallest))
    return pairs(((name, value) for name, value in rows if value), title="what else")
