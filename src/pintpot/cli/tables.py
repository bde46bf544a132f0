"""Tables and lines of one look, for every command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pintpot.cli.terminal import safe

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

MUTED, STRONG, GOOD, BAD, WARN, ACCENT = "bright_black", "bold", "green", "red", "yellow", "cyan"
MARKS = {True: ("✓", GOOD), False: ("✗", BAD), None: ("·", WARN)}


def table(*columns: str, title: str = "", right: Sequence[int] = (), wide: int = -1) -> Table:
    """An open table; `right` are the columns of numbers, `wide` is the one that takes the room that is left."""
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD, title=safe(title) or None, title_justify="left", title_style=STRONG, pad_edge=False
    )
    for index, name in enumerate(columns):
        made.add_column(
            name,
            justify="right" if index in right else "left",
            header_style=MUTED,
            no_wrap=index != wide,
            overflow="ellipsis" if index != wide else "fold",
            ratio=1 if index == wide else None,
        )
    return made


def pairs(rows: Iterable[tuple[str, str]], title: str = "") -> Table:
    """Names and what they are, one a line."""
    made = table("", "", title=title, wide=1)
    made.show_header = False
    made.columns[0].style = MUTED
    for name, value in rows:
        made.add_row(name, safe(value))
    return made


def mark(holds: bool | None) -> Text:
    """✓, ✗, or a dot where nothing was decided."""
    from rich.text import Text

    return Text(*MARKS[holds])
