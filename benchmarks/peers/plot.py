"""A picture of the contests: a bar for every contender with its quarters, and the limit of one sequence as a line."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from pintpot.meter.clock import quantile

_WIDTH, _LEFT, _BAR, _GAP = 960, 380, 18, 6
_OWN, _PEER, _INK, _FAINT = "#1a7f5a", "#8a94a3", "#1d232b", "#5b6570"
_HEAD = 34


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> Path | None:
    """Write the picture; None where no case has contenders in rounds."""
    parts: list[str] = []
    top = 12
    for case, data in found.items():
        for metric in data.get("metrics", ()):
            values = {label: [one[metric] for one in samples] for label, samples in data["finals"].items()}
            limit = _limit(data) if metric == "decode" and "load" not in data["metrics"] else None
            parts.append(_text(12, top + 18, f"{case}: {metric}, tokens a second", _INK, "bold"))
            top += _HEAD
            top = _bars(parts, values, limit, top)
    if not parts:
        return None
    style = "font-family:system-ui,sans-serif;font-size:13px;background:#ffffff"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" style="{style}">'
    path.write_text(f"{head}{''.join(parts)}</svg>\n", encoding="utf-8")
    return path


def _limit(data: Mapping[str, Any]) -> float | None:
    """Tokens a second at the rate of plain reads, for the pack that reads least."""
    label = min(data["packs"], key=lambda one: float(data["packs"][one]["step_bytes"]))
    if label not in data["finals"]:
        return None
    reads = statistics.median(one["machine"]["read"] for one in data["finals"][label])
    return float(reads / data["packs"][label]["step_bytes"])


def _bars(parts: list[str], values: Mapping[str, list[float]], limit: float | None, top: int) -> int:
    most = max([*(max(one) for one in values.values()), limit or 0.0])
    scale = (_WIDTH - _LEFT - 90) / most
    first = top
    for label, seen in sorted(values.items(), key=lambda item: -statistics.median(item[1])):
        middle, low, high = statistics.median(seen), quantile(seen, 0.25), quantile(seen, 0.75)
        colour = _OWN if label.startswith("Pintpot") else _PEER
        parts.append(_text(_LEFT - 8, top + 14, label, _INK, "normal", "end"))
        parts.append(_rect(_LEFT, top, middle * scale, _BAR, colour))
        parts.append(_rect(_LEFT + low * scale, top + 7, max(1.0, (high - low) * scale), 4, _INK))
        parts.append(_text(_LEFT + max(high, middle) * scale + 6, top + 14, f"{middle:.0f}", _FAINT))
        top += _BAR + _GAP
    if limit is not None:
        place = _LEFT + limit * scale
        parts.append(f'<path d="M{place:.1f} {first - 4}V{top}" stroke="{_INK}" stroke-dasharray="4 3"/>')
        parts.append(_text(place, first - 8, f"plain reads {limit:.0f}", _FAINT, "normal", "end"))
    return top + 14


def _text(x: float, y: float, words: str, colour: str, weight: str = "normal", anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-weight="{weight}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(words)}</text>"


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
