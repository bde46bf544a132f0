"""A picture of the frontier: KL divergence by bytes, one line for each side and way of measuring."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from math import floor, log10
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 860, 480, 80, 30, 40, 60
_COLOURS = {"Pintpot": "#1a7f5a", "llama.cpp": "#8a94a3"}
_DASHES = {"weights": "", "answers": "6 4"}
_INK, _GRID = "#1d232b", "#dfe3e8"


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Write the picture of `found`: by type, by side, a case with `num_bytes` (or `sizes`) and divergences by way."""
    lines = {
        (side, way): [(_size(pair[side]) / 1e6, pair[side][way]) for pair in found.values()]
        for side in _COLOURS for way in _DASHES
    }  # fmt: skip
    sizes = [size for line in lines.values() for size, _ in line]
    nats = [one[end] for line in lines.values() for _, one in line for end in ("low", "mean", "high") if one[end] > 0]
    low, high = floor(log10(min(nats))), log10(max(nats))
    narrow, wide = min(sizes) * 0.96, max(sizes) * 1.04

    def across(size: float) -> float:
        return _LEFT + (size - narrow) / (wide - narrow) * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        share = (log10(max(value, 10**low)) - low) / max(high - low, 1e-9)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(12, 22, "mean KL divergence from the float model, nats a token", weight="bold")]
    for power in range(low, floor(high) + 1):
        parts.append(_line(_LEFT, up(10.0**power), _WIDTH - _RIGHT, up(10.0**power), _GRID))
        parts.append(_text(_LEFT - 8, up(10.0**power) + 4, f"{10.0**power:g}", anchor="end"))
    for kind, pair in found.items():
        place = across(_size(pair["llama.cpp"]) / 1e6)
        parts.append(_line(place, _TOP, place, _HEIGHT - _BOTTOM, _GRID))
        parts.append(_text(place, _HEIGHT - _BOTTOM + 18, f"{_size(pair['llama.cpp']) / 1e6:.0f}", anchor="middle"))
        parts.append(_text(place, _TOP - 4, kind, anchor="middle"))
    parts.append(_text(_WIDTH - _RIGHT, _HEIGHT - 22, "MB of matrices", anchor="end"))
    for index, ((side, way), line) in enumerate(lines.items()):
        points = " ".join(f"{across(size):.1f},{up(one['mean']):.1f}" for size, one in sorted(line, key=lambda p: p[0]))
        style = f'fill="none" stroke="{_COLOURS[side]}" stroke-width="2" stroke-dasharray="{_DASHES[way]}"'
        parts.append(f'<polyline points="{points}" {style}/>')
        for size, one in line:
            parts.append(_line(across(size), up(one["low"]), across(size), up(one["high"]), _COLOURS[side]))
            parts.append(
                f'<circle cx="{across(size):.1f}" cy="{up(one["mean"]):.1f}" r="3.5" fill="{_COLOURS[side]}"/>'
            )
        left = _LEFT + 190 * index
        parts.append(f'<path d="M{left} {_HEIGHT - 26}h30" {style}/>')
        parts.append(_text(left + 36, _HEIGHT - 22, f"{side}, {'weights alone' if way == 'weights' else way}"))
    style = "font-family:system-ui,sans-serif;font-size:13px;background:#ffffff"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" style="{style}">'
    path.write_text(f"{head}{''.join(parts)}</svg>\n", encoding="utf-8")
    return path


def _size(one: Mapping[str, Any]) -> float:
    return float(one["sizes"]["all"]["num_bytes"] if "sizes" in one else one["num_bytes"])


def _text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" fill="{_INK}" text-anchor="{anchor}" font-weight="{weight}"'
    return f"<text {place}>{escape(words)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{colour}"/>'
