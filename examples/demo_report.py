"""The demo's receipts side by side: a table for the terminal, and a page with plots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

import pintpot
from pintpot.cli.proof_view import amount, span
from pintpot.proof import html
from pintpot.proof.proof import Row
from pintpot.proof.scale import Axis
from pintpot.proof.svg import Promise, Series, Stack, line_chart, memory_stacks, promise_bars
from pintpot.units import format_bytes

JUDGED = ("memory", "first token", "prefill", "decode", "degradation")
COLOURS = {True: "green", False: "red", None: ""}


@dataclass(frozen=True)
class Receipt:
    """One budget: its name, what was planned, and what was measured."""

    label: str
    plan: pintpot.Plan
    proof: pintpot.Proof

    @property
    def title(self) -> str:
        return f"{self.label}, {format_bytes(self.plan.budget.memory_bytes)}"


def lines(one: Receipt) -> Iterator[tuple[str, str, bool | None]]:
    """(what, value, whether it held) of a receipt, the same whats for every receipt."""
    for what in JUDGED:
        row = one.proof.row(what)
        yield f"{what} promised", span(row.promised_low, row.promised_high, row.unit), None
        yield f"{what} measured", amount(row.measured, row.unit), row.holds
    agreement = one.proof.answers
    yield "same likeliest word", "not measured" if agreement is None else f"{agreement.top1:.1%}", None
    for what in ("prefill", "decode"):
        share = one.proof.row(what).share_of_limit
        yield f"{what}, of the limit", "not measured" if share is None else f"{share:.0%}", None
    yield "what binds", one.proof.binds, None
    yield "read from disk per token", format_bytes(_disk_bytes(one)), None
    yield "promises", "all held" if one.proof.holds else "not all held", one.proof.holds


def _disk_bytes(one: Receipt) -> float:
    return one.plan.cost.stage("decode").disk_bytes_per_replay


def summary_table(receipts: list[Receipt]) -> Table:
    """Budgets side by side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", style="bright_black")
    for one in receipts:
        table.add_column(one.title, justify="right", no_wrap=True)
    for row in zip(*map(lines, receipts), strict=True):
        cells = [Text(value, COLOURS[holds]) for _, value, holds in row]
        table.add_row(row[0][0], *cells)
    return table


def write_demo_report(path: Path, receipts: list[Receipt], curve: list[tuple[float, float, float]]) -> Path:
    """The page; `curve` is promised decode speed (budget, low, high) between the budgets."""
    names = tuple(dict.fromkeys(holder.name for one in receipts for holder in one.proof.holders))
    note = "Decode speed promised at each budget, and what was measured at three of them."
    sections: list[html.Section] = [
        html.KeyFigures(tuple(_figure(one) for one in receipts), title="Decode speed"),
        html.Plot("Memory by what holds it", memory_stacks(_stacks(receipts), format_bytes, names)),
        html.Plot("What a budget brings", _frontier(receipts, curve), note),
        _table(receipts),
    ]
    for one in receipts:
        bars = promise_bars([_promise(one.proof.row(what)) for what in JUDGED])
        sections.append(html.Plot(f"Promised and measured: {one.title}", bars))
        sections.append(html.Text("The plan", tuple(f"{step}   {step.paper}" for step in one.plan.steps), code=True))
    first = receipts[0]
    environment = tuple(f"{key} {value}" for key, value in first.proof.environment.items())
    sections.append(html.Text("Where this was measured", (first.proof.machine_name, ", ".join(environment))))
    title = f"{first.plan.model_name} in {len(receipts)} budgets"
    return html.write_report(path, title, sections, "a quart into a pint pot, with receipts")


def _figure(one: Receipt) -> html.Figure:
    row = one.proof.row("decode")
    value = html.Verdict(amount(row.measured, row.unit), row.holds)
    return html.Figure(one.title, value, f"{span(row.promised_low, row.promised_high, row.unit)} promised")


def _stacks(receipts: list[Receipt]) -> list[Stack]:
    stacks = []
    for one in receipts:
        budget = float(one.plan.budget.memory_bytes)
        promised = tuple((holder.name, float(holder.promised_high)) for holder in one.proof.holders)
        measured = tuple((h.name, float(max(0, h.measured))) for h in one.proof.holders if h.measured is not None)
        stacks += [Stack(f"{one.label}: promised", promised, budget), Stack(f"{one.label}: measured", measured, budget)]
    return stacks


def _frontier(receipts: list[Receipt], curve: list[tuple[float, float, float]]) -> str:
    measured = [
        (min(float(one.plan.budget.memory_bytes), curve[-1][0]), row.measured, one.label)
        for one in receipts
        if (row := one.proof.row("decode")).measured is not None
    ]
    series = [
        Series("promised, at least", tuple((budget, low) for budget, low, _ in curve)),
        Series("promised, at most", tuple((budget, high) for budget, _, high in curve)),
    ]
    if measured:
        points, labels = tuple((x, y) for x, y, _ in measured), tuple(label for _, _, label in measured)
        series.append(Series("measured", points, line=False, labels=labels))
    return line_chart(series, Axis("memory", format_bytes), Axis("tok/s", lambda y: f"{y:.3g}", log=True))


def _table(receipts: list[Receipt]) -> html.Table:
    rows: list[tuple[html.Words, ...]] = []
    for row in zip(*map(lines, receipts), strict=True):
        cells = (value if holds is None else html.Verdict(value, holds) for _, value, holds in row)
        rows.append((row[0][0], *cells))
    return html.Table("Promised and measured", ("", *(one.title for one in receipts)), tuple(rows))


def _promise(row: Row) -> Promise:
    return Promise(
        row.what,
        lambda value: amount(value, row.unit),
        row.promised_low,
        row.promised_high,
        row.measured,
        row.limit,
        row.holds,
    )
