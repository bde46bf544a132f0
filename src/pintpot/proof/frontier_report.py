"""A frontier as a page: quality against bytes, quality against speed, and every point in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pintpot.meter.agreement import Agreement
from pintpot.proof.frontier import Frontier, Point
from pintpot.proof.html import Figure, KeyFigures, Plot, Section, Table, Text, Verdict, Words, write_report
from pintpot.proof.scale import Axis
from pintpot.proof.svg import Series, line_chart
from pintpot.units import format_bytes, format_rate

LEAST = 1e-7
"""Nats under which a logarithm shows nothing but rounding."""


def write_frontier_report(found: Frontier, path: Path) -> Path:
    """Write the report and return where it is."""
    title = f"{found.model_name}: what quality costs"
    under = f"{found.machine_name}; context {found.context}, median of {found.num_runs}"
    return write_report(path, title, _sections(found), under)


def short(step: str) -> str:
    """A step without what says nothing in a table."""
    return step.replace(", minimum=False", "").replace("()", "")


def _sections(found: Frontier) -> list[Section]:
    points = found.points
    plans = tuple(f"{format_bytes(point.weight_bytes)}: {', '.join(map(short, point.steps))}" for point in points)
    return [
        KeyFigures((_figure("smallest", points[0]), _figure("largest", points[-1]))),
        Plot("Quality against bytes", _by_bytes(points), _HOW),
        Plot("Quality against speed", _by_speed(points), _SPEED),
        _table(points),
        Text("The plans", plans, code=True),
        Text("Where this was measured", (f"{found.folder} keeps each point and its proof",)),
    ]


def _figure(name: str, point: Point) -> Figure:
    note = f"{format_bytes(point.weight_bytes)} of weights, {format_rate(point.decode, 'tok/s')}"
    return Figure(name, f"{point.answers.kl.mean:.4g} nats", note)


def _by_bytes(points: tuple[Point, ...]) -> str:
    sizes = [point.weight_bytes for point in points]
    drawn = [
        _series("weights alone", sizes, [point.answers_of_weights for point in points]),
        _series("as it runs", sizes, [point.answers for point in points]),
    ]
    return line_chart(drawn, Axis("bytes of weights", format_bytes, log=True), _NATS)


def _by_speed(points: tuple[Point, ...]) -> str:
    drawn = _series("as it runs", [point.decode for point in points], [point.answers for point in points])
    labels = tuple(format_bytes(point.weight_bytes) for point in points)
    speed = Axis("decode, tokens a second", "{:.3g}".format, zero=True)
    return line_chart([replace(drawn, line=False, labels=labels)], speed, _NATS)


def _series(name: str, across: Sequence[float], found: Sequence[Agreement]) -> Series:
    places = tuple((at, max(LEAST, one.kl.mean)) for at, one in zip(across, found, strict=True))
    spans = tuple((max(LEAST, one.kl.low), max(LEAST, one.kl.high)) for one in found)
    return Series(name, places, spans=spans)


def _table(points: tuple[Point, ...]) -> Table:
    columns = (
        "weights", "bits", "memory", "KL", "95% interval", "p99", "max", "alone", "same word", "perplexity", "decode",
        "prefill", "promises",
    )  # fmt: skip
    note = (
        f"Against the unpacked model (perplexity {points[0].answers.perplexity_reference or 0:.4g}) on "
        f"{points[0].answers.num_tokens} words of answers in {points[0].answers.num_sequences} texts; KL as it runs, "
        "nats a token. Alone: the mean of the weights in float32 arithmetic."
    )
    return Table("Every plan", columns, tuple(map(_row, points)), note=note)


def _row(point: Point) -> tuple[Words, ...]:
    answers, alone = point.answers, point.answers_of_weights
    held = Verdict("held", True) if not point.shortfalls else Verdict("; ".join(point.shortfalls), False)
    return (
        format_bytes(point.weight_bytes),
        f"{point.bits:.3g}",
        format_bytes(point.memory_bytes),
        f"{answers.kl.mean:.3g}",
        f"{answers.kl.low:.3g} to {answers.kl.high:.3g}",
        f"{answers.kl_p99:.3g}",
        f"{answers.kl_max:.3g}",
        f"{alone.kl.mean:.3g}",
        f"{answers.top1:.1%}",
        f"{answers.perplexity_test or 0:.4g}",
        format_rate(point.decode, "tok/s"),
        format_rate(point.prefill, "tok/s"),
        held,
    )


_NATS = Axis("mean KL divergence, nats a token", "{:.2g}".format, log=True)
_SPEED = "The same plans by the speed of decoding; beside each point the bytes of its weights."
_HOW = (
    "Each point is a plan that was packed and measured; upright lines are 95% intervals of the mean. As it runs: "
    "through the fast path, words of answers decoded one by one. Weights alone: the same weights in float32 "
    "arithmetic; where one line is seen, both lie there."
)
