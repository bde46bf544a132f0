"""Bytes and seconds as people write them. MB and GB are powers of ten, MiB and GiB of two."""

from __future__ import annotations

import re
from math import inf

from pintpot.errors import UsageError

_BYTES = {
    "": 1, "b": 1,
    "k": 10**3, "kb": 10**3, "kib": 2**10,
    "m": 10**6, "mb": 10**6, "mib": 2**20,
    "g": 10**9, "gb": 10**9, "gib": 2**30,
    "t": 10**12, "tb": 10**12, "tib": 2**40,
}  # fmt: skip
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")


def _parse(text: str, factors: dict[str, float] | dict[str, int], example: str) -> float:
    match = _NUMBER.fullmatch(text)
    if match is None or match[2].lower() not in factors:
        raise UsageError(f"{text!r} is not an amount; write it like {example}")
    return float(match[1]) * factors[match[2].lower()]


def parse_bytes(text: str | int) -> int:
    """`"8GB"` -> 8_000_000_000, `"512MiB"` -> 536_870_912; integers pass through.

    Raises UsageError for anything else.
    """
    return text if isinstance(text, int) else round(_parse(text, _BYTES, "300MB or 2GiB"))


def parse_seconds(text: str | float) -> float:
    """`"50ms"` -> 0.05, `"2"` -> 2.0; numbers pass through. Raises UsageError for anything else."""
    return float(text) if isinstance(text, (int, float)) else _parse(text, _SECONDS, "0.5 or 50ms")


def format_bytes(num_bytes: float) -> str:
    """Three significant digits in powers of ten: 97.3 MB."""
    value, sign = abs(num_bytes), "-" if num_bytes < 0 else ""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= 0.9995 * factor:
            return f"{sign}{_digits(value / factor)} {unit}"
    return f"{sign}{value:.0f} B"


def format_bytes_up(num_bytes: int) -> str:
    """As `format_bytes`, but never less than what it stands for, so that it can be given as a budget: 80.3 MB."""
    step = 10 ** max(0, len(str(num_bytes)) - 3)
    return format_bytes(-(-num_bytes // step) * step)


def format_seconds(seconds: float) -> str:
    """Three significant digits in the unit that fits: 1.25 ms, 3.4 min."""
    if seconds >= 5400:
        return f"{_digits(seconds / 3600)} h"
    if seconds >= 90:
        return f"{_digits(seconds / 60)} min"
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * factor:
            return f"{_digits(seconds / factor)} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def format_rate(per_second: float, unit: str) -> str:
    """A rate with three significant digits: "41.3 tok/s"; from ten thousand on in thousands or more, "602k tok/s"."""
    for prefix, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if per_second >= max(0.9995 * factor, 9999.5):
            return f"{_digits(per_second / factor)}{prefix} {unit}"
    return f"{_digits(per_second)} {unit}"


def format_span(low: float, high: float, unit: str) -> str:
    """A promise from low to high, the unit once where both have the same; without an end, how much at least."""
    first, last = format_amount(low, unit), format_amount(high, unit)
    if high == inf:
        return f"{first} or more"
    if first == last:
        return last
    same = first.split()[-1] == last.split()[-1]
    return f"{first.rsplit(' ', 1)[0] if same else first} to {last}"


def format_amount(value: float | None, unit: str) -> str:
    """A quantity as people read it: bytes and seconds in the size that fits."""
    if value is None:
        return "-"
    match unit:
        case "bytes":
            return format_bytes(value)
        case "seconds":
            return format_seconds(value)
        case "tokens/s":
            return format_rate(value, "tok/s")
    return f"{value:.3g} {unit}"


def _digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
