"""Tables and lines of one look, for every command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pintpot.cli.terminal import safe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_UNBOUNDED = 10_000
MUTED, STRONG, GOOD, BAD, WARN, ACCENT = "bright_black", "bold", "green", "red", "yellow", "cyan"
MARKS = {True: ("✓", GOOD), False: ("✗", BAD), None: ("·", WARN)}


def table(
    *columns: str, title: str = "", right: Sequence[int] = (), wide: int = -1, whole: Sequence[int] = ()
) -> Table:
    """An open table; `right` are the columns of numbers, which keep their room while names wrap where it is short.

    `wide` is the column that takes the room that is left; `whole` are those that are copied from, and never wrap.
    """
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
            no_wrap=index in right or index in whole,
            overflow="ellipsis" if index in right else "fold",
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


def fits(made: Table, console: Console) -> bool:
    """Whether a table stands on a console with no cell wrapped or cut."""
    unbounded = console.options.update(max_width=_UNBOUNDED)
    return console.measure(made, options=unbounded).maximum <= console.width


def show_whole(made: Table, console: Console) -> None:
    """Print a table in the console's width, or wider where its whole columns and its longest words need that."""
    unbounded = console.options.update(max_width=_UNBOUNDED)
    console.width = max(console.width, console.measure(made, options=unbounded).minimum)
    console.print(made)


def shortened(text: str) -> Text:
    """A cell of one line, which ends in an ellipsis where there is no room for all of it."""
    from rich.text import Text

    return Text(safe(text), no_wrap=True, overflow="ellipsis")


def mark(holds: bool | None) -> Text:
    """✓, ✗, or a dot where nothing was decided."""
    from rich.text import Text

    return Text(*MARKS[holds])
