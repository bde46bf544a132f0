"""PROOF: bars for the terminal, as plain text: memory by what holds it, and a measurement inside its promise.

Block characters have eight steps a cell, so a bar of 30 cells tells 240 lengths apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from pintpot.errors import need
from pintpot.units import format_bytes

_EIGHTHS = " ▏▎▍▌▋▊▉"
_AMOUNT_WIDTH = 9
_SHARE_WIDTH = 6


def memory_bar(holders: Sequence[tuple[str, float]], budget: float, width: int = 80) -> str:
    """One line per holder, each bar starting where the one above ends, so that they add up towards the budget.

    `holders` are (name, bytes); `budget` in bytes stands as a line through the bars, and the last line says what is
    free or missing. No line is longer than `width`, of which 48 is the least. Raises BadInput for amounts under zero.
    """
    need(budget > 0, f"a budget of {budget} bytes holds nothing")
    need(all(amount >= 0 for _, amount in holders), "memory is never less than zero")
    total = sum(amount for _, amount in holders)
    names = [name for name, _ in holders] + ["in all"]
    name_width = min(max(map(len, names)), max(12, width // 3))
    num_cells = max(8, width - name_width - _AMOUNT_WIDTH - _SHARE_WIDTH - 3)
    scale = num_cells / max(total, budget)
    line_at = min(int(budget * scale), num_cells - 1)
    lines, start = [], 0.0
    for name, amount in holders:
        bar = _with_line(_bar(start * scale, (start + amount) * scale, num_cells), line_at)
        lines.append(_line(name, name_width, bar, amount, amount / budget))
        start += amount
    whole = _with_line(_bar(0.0, total * scale, num_cells), line_at)
    lines.append(_line("in all", name_width, whole, total, total / budget))
    left = budget - total
    told = f"{format_bytes(left)} free" if left >= 0 else f"{format_bytes(-left)} too much"
    summary = f"budget {format_bytes(budget)}, {told}"
    return "\n".join([*lines, summary.rjust(name_width + 2 + max(line_at + 1, len(summary) - name_width - 2))])


def promise_bar(low: float, high: float, measured: float | None, width: int = 24) -> str:
    """The promise as a bracket on a line from zero, and the measurement as a dot on it: `──────├───●────┤──`.

    Raises BadInput for amounts under zero or a range that is upside down.
    """
    need(0 <= low <= high, f"a promise reaches from low to high, both zero or more, not from {low} to {high}")
    need(measured is None or measured >= 0, f"{measured} is less than zero")
    top = max(high, measured or 0.0) * 1.08 or 1.0
    cells = ["─"] * max(8, width)
    cells[_cell(low, top, len(cells))] = "├"
    cells[_cell(high, top, len(cells))] = "┤"
    if measured is not None:
        cells[_cell(measured, top, len(cells))] = "●"
    return "".join(cells)


def _cell(value: float, top: float, num_cells: int) -> int:
    return min(int(value / top * num_cells), num_cells - 1)


def _bar(first: float, last: float, num_cells: int) -> str:
    # A bar begins at a whole cell, for there are no blocks that fill a cell from the right; its end is to the eighth.
    begin = min(int(first), num_cells - 1)
    eighths = max(round((last - begin) * 8), 1 if last > first else 0)
    full, rest = divmod(eighths, 8)
    bar = " " * begin + "█" * full + (_EIGHTHS[rest] if rest else "")
    return bar[:num_cells].ljust(num_cells)


def _with_line(bar: str, at: int) -> str:
    return bar if bar[at] != " " else f"{bar[:at]}│{bar[at + 1 :]}"


def _line(name: str, name_width: int, bar: str, amount: float, share: float) -> str:
    short = name if len(name) <= name_width else f"{name[: name_width - 1]}…"
    percent = "<1%" if 0 < share < 0.01 else f"{share:.0%}" if share < 10 else ">999%"
    return f"{short.ljust(name_width)}  {bar} {format_bytes(amount).rjust(_AMOUNT_WIDTH)}{percent.rjust(_SHARE_WIDTH)}"
