"""PROOF: plots as inline SVG, drawn from plain numbers: promises beside measurements, stacked memory, lines and points.

Horizontal places are percentages and sizes are pixels, so a plot fills whatever width it is given and its text stays
readable, down to a phone. Colours are variables of the page (`pintpot.proof.html` holds them, for light and dark).
Every text is escaped, and every plot says in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from pintpot.errors import need
from pintpot.proof.scale import Axis, Scale

NUM_COLOURS = 8
CHART_MARGIN = 64  # pixels left of a chart for its ticks; the style sheet leaves them free
Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Promise:
    """One quantity: promised low..high, measured (None: not yet), the limit of the hardware, and whether it held."""

    label: str
    form: Format
    low: float
    high: float
    measured: float | None = None
    limit: float | None = None
    holds: bool | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """Amounts by what holds them, and the budget they must stay inside."""

    label: str
    parts: tuple[tuple[str, float], ...]
    budget: float | None = None

    @property
    def total(self) -> float:
        return sum(amount for _, amount in self.parts)


@dataclass(frozen=True, slots=True)
class Series:
    """Points (x, y), joined by a line or not; `labels` stand beside the points, one each, or none at all.

    `spans` are upright lines through the points, from low to high, one each, or none at all.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    line: bool = True
    labels: tuple[str, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()


def promise_bars(promises: Sequence[Promise]) -> str:
    """A bar for each measurement, from zero, and over it the promised range as a band; each row has its own scale.

    Amounts are zero or more. Raises BadInput otherwise, and for an empty sequence.
    """
    need(len(promises) > 0, "a plot of no promises shows nothing")
    rows = [_promise_row(promise, 80 * i) for i, promise in enumerate(promises)]
    return _svg("".join(rows), 80 * len(promises) - 20, "; ".join(map(_promise_words, promises)))


def memory_stacks(stacks: Sequence[Stack], form: Format, order: Sequence[str] = ()) -> str:
    """One bar per stack on a common scale, cut by what holds it, against its budget; a legend names the holders.

    Holders named in `order` have the same colour in every plot that is given the same order. Amounts are zero or more.
    Raises BadInput otherwise, and for an empty sequence.
    """
    need(len(stacks) > 0, "a plot of no stacks shows nothing")
    need(min(amount for one in stacks for _, amount in one.parts) >= 0, "memory is never less than zero")
    scale = Scale.upwards([value for one in stacks for value in (one.total, one.budget or 0.0)])
    held = dict.fromkeys(name for one in stacks for name, _ in one.parts)
    colours = {name: _colour(i) for i, name in enumerate(dict.fromkeys([*order, *held]))}
    rows = [_stack_row(one, 80 * i, scale, colours, form) for i, one in enumerate(stacks)]
    words = "; ".join(_stack_words(one, form) for one in stacks)
    values = dict(stacks[0].parts) if len(stacks) == 1 else {}
    legend = [(name, form(values[name]) if values else "", colours[name]) for name in colours if name in held]
    return _svg("".join(rows), 80 * len(stacks) - 10, words) + _legend(legend)


def line_chart(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """Lines and points over two axes with ticks; a legend where there are several series.

    Raises BadInput without points, for labels that do not pair up, and for values that a log axis cannot show.
    """
    points = [point for one in series for point in one.points]
    need(len(points) > 0, "a chart of no points shows nothing")
    need(all(len(one.labels) in (0, len(one.points)) for one in series), "labels are one for each point, or none")
    need(all(len(one.spans) in (0, len(one.points)) for one in series), "spans are one for each point, or none")
    across = x.scale([point[0] for point in points], first=1.5, last=98.5)
    ends = [
        end for one in series for span in one.spans for end in span if math.isfinite(end) and (end > 0 or not y.log)
    ]
    up = y.scale([*(point[1] for point in points), *ends], first=212.0, last=40.0)
    grid = [_y_tick(up(tick), y.form(tick)) for tick in up.ticks(4)]
    grid += [_x_tick(across(tick), x.form(tick)) for tick in across.ticks(4)]
    drawn = [_drawn_series(one, across, up, _colour(i)) for i, one in enumerate(series)]
    named = f'<text x="{-CHART_MARGIN}" y="14" class="axis">{escape(y.label)}</text>' + _text(
        100, 252, x.label, "axis", "end"
    )
    words = "; ".join(_series_words(one, x, y) for one in series)
    legend = _legend([(one.name, "", _colour(i)) for i, one in enumerate(series)]) if len(series) > 1 else ""
    return _svg(named + "".join(grid) + "".join(drawn), 258, words, "plot chart") + legend


def _promise_row(promise: Promise, top: int) -> str:
    known = [one for one in (promise.low, promise.high, promise.measured, promise.limit) if one is not None]
    need(min(known) >= 0, f"{promise.label}: bars start at zero, and {min(known)} is less")
    scale, form = Scale.upwards(known), promise.form
    state, mark = {True: ("good", " ✓"), False: ("bad", " ✗"), None: ("plain", "")}[promise.holds]
    low, high = scale(promise.low), scale(promise.high)
    parts = [_text(0, top + 14, promise.label, "label"), _rect(0, top + 26, 100, 10, "track")]
    parts.append(_rect(low, top + 22, high - low, 18, "band"))
    if promise.measured is not None:
        parts.append(_text(100, top + 14, form(promise.measured) + mark, f"value {state}", "end"))
        parts.append(_rect(0, top + 26, scale(promise.measured), 10, f"bar {state}"))
    parts += [_vertical(place, top + 22, top + 40, "edge") for place in (low, high)]
    parts.append(_text(0, top + 55, f"promised {_range(promise)}", "note"))
    if promise.limit is not None:
        parts.append(_marker(scale(promise.limit), top + 20, top + 42))
        parts.append(_text(100, top + 55, f"limit {form(promise.limit)}", "note", "end"))
    return "".join(parts)


def _promise_words(promise: Promise) -> str:
    words = f"{promise.label}: promised {_range(promise)}"
    if promise.measured is not None:
        words += f", measured {promise.form(promise.measured)}"
    if promise.limit is not None:
        words += f", limit {promise.form(promise.limit)}"
    return words + {True: ", held", False: ", not held", None: ""}[promise.holds]


def _range(promise: Promise) -> str:
    low, high = promise.form(promise.low), promise.form(promise.high)
    return low if low == high else f"{low} to {high}"


def _stack_row(stack: Stack, top: int, scale: Scale, colours: dict[str, str], form: Format) -> str:
    parts = [_text(0, top + 14, stack.label, "label"), _text(100, top + 14, form(stack.total), "value", "end")]
    if stack.budget is not None:
        parts.append(_rect(0, top + 26, scale(stack.budget), 24, "track"))
    start = 0.0
    for name, amount in stack.parts:
        left, right = scale(start), scale(start + amount)
        parts.append(_rect(left, top + 26, right - left, 24, "part", colours[name], f"{name}: {form(amount)}"))
        start += amount
    if stack.budget is not None:
        place = scale(stack.budget)
        over = stack.total > stack.budget
        parts.append(_marker(place, top + 19, top + 56, "limit bad" if over else "limit"))
        side = "end" if place > 50 else "start"
        parts.append(_text(place, top + 67, f"budget {form(stack.budget)}", "note bad" if over else "note", side))
    return "".join(parts)


def _stack_words(stack: Stack, form: Format) -> str:
    held = ", ".join(f"{name} {form(amount)}" for name, amount in stack.parts)
    within = "" if stack.budget is None else f" of a budget of {form(stack.budget)}"
    return f"{stack.label}: {form(stack.total)}{within} ({held})"


def _drawn_series(series: Series, across: Scale, up: Scale, colour: str) -> str:
    places = [(across(a), up(b)) for a, b in series.points]
    parts = []
    if series.line and len(places) > 1:
        # A path knows no percentages: it lies in a box of 100 x 258 that is stretched, its stroke is not.
        path = " ".join(f"{'L' if i else 'M'}{_n(a)} {_n(b)}" for i, (a, b) in enumerate(places))
        parts.append(
            '<svg width="100%" height="258" viewBox="0 0 100 258" preserveAspectRatio="none">'
            f'<path d="{path}" class="line" style="stroke:{colour}" vector-effect="non-scaling-stroke"/></svg>'
        )
    for (left, _), ends in zip(places, series.spans, strict=False):
        low, high = (up(min(max(end, up.low), up.high)) for end in ends)
        parts.append(_vertical(left, high, low, "span", f' style="stroke:{colour}"'))
    for i, (left, top) in enumerate(places):
        label = series.labels[i] if series.labels else ""
        said = f"<title>{escape(series.name + (': ' + label if label else ''))}</title>"
        parts.append(f'<circle cx="{_n(left)}%" cy="{_n(top)}" r="4.5" style="fill:{colour}">{said}</circle>')
        if label:
            parts.append(_text(left, top + 19, label, "note", "end" if left > 70 else "start"))
    return "".join(parts)


def _series_words(series: Series, x: Axis, y: Axis) -> str:
    shown = ", ".join(f"{y.form(b)} at {x.form(a)}" for a, b in series.points[:12])
    more = f" and {len(series.points) - 12} more" if len(series.points) > 12 else ""
    return f"{series.name} ({y.label} by {x.label}): {shown}{more}"


def _y_tick(top: float, label: str) -> str:
    line = f'<line x1="0" x2="100%" y1="{_n(top)}" y2="{_n(top)}" class="grid"/>'
    return line + f'<text x="-8" y="{_n(top + 4)}" class="tick" text-anchor="end">{escape(label)}</text>'


def _x_tick(left: float, label: str) -> str:
    return _vertical(left, 212, 217, "grid") + _text(left, 231, label, "tick", "middle")


def _legend(entries: Sequence[tuple[str, str, str]]) -> str:
    items = "".join(
        f'<li><i style="background:{colour}"></i>{escape(name)}{f" <b>{escape(value)}</b>" if value else ""}</li>'
        for name, value, colour in entries
    )
    return f'<ul class="legend">{items}</ul>'


def _svg(body: str, height: int, words: str, kind: str = "plot") -> str:
    said = escape(words, quote=True)
    return f'<svg class="{kind}" role="img" aria-label="{said}" width="100%" height="{height}">{body}</svg>'


def _marker(left: float, top: float, bottom: float, kind: str = "limit") -> str:
    return _vertical(left, top, bottom, "halo") + _vertical(left, top, bottom, kind)


def _rect(left: float, top: float, width: float, height: float, kind: str, colour: str = "", said: str = "") -> str:
    style = f' style="fill:{colour}"' if colour else ""
    place = f'x="{_n(left)}%" y="{_n(top)}" width="{_n(max(width, 0.0))}%" height="{_n(height)}"'
    return f'<rect {place} class="{kind}"{style}>{f"<title>{escape(said)}</title>" if said else ""}</rect>'


def _vertical(left: float, top: float, bottom: float, kind: str, style: str = "") -> str:
    return f'<line x1="{_n(left)}%" x2="{_n(left)}%" y1="{_n(top)}" y2="{_n(bottom)}" class="{kind}"{style}/>'


def _text(left: float, baseline: float, words: str, kind: str, anchor: str = "start") -> str:
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{_n(left)}%" y="{_n(baseline)}" class="{kind}"{side}>{escape(words)}</text>'


def _colour(index: int) -> str:
    return f"var(--c{index % NUM_COLOURS + 1})"


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
