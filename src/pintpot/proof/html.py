"""PROOF: a report as one HTML file: style and plots inside, nothing loaded, for screens, phones and paper.

Sections are plain data. All their words are escaped; only `Plot.svg` is taken as markup: `pintpot.proof.svg` makes it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

from pintpot.errors import need


@dataclass(frozen=True, slots=True)
class Verdict:
    """A cell or figure that says whether something held (None: it was not decided)."""

    text: str
    holds: bool | None


Words = str | Verdict


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a reader should see first: what it is, the value, and a remark in small print."""

    label: str
    value: Words
    note: str = ""


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """A row of figures."""

    figures: tuple[Figure, ...]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns. The first column is the row's heading; the others are set right, but for those in `left`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Words, ...], ...]
    left: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot made by `pintpot.proof.svg`, and a sentence on how to read it."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs; `code` sets them as lines of a terminal."""

    title: str
    paragraphs: tuple[str, ...]
    code: bool = False


Section = KeyFigures | Table | Plot | Text


def write_report(path: str | os.PathLike[str], title: str, sections: Sequence[Section], subtitle: str = "") -> Path:
    """Write the report whole or not at all, and return where it is. Raises OSError where nothing can be written."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_text(report(title, sections, subtitle), encoding="utf-8")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def report(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """The report as a page of HTML. Raises BadInput for a table whose rows do not fit its columns."""
    under = f"<p>{escape(subtitle)}</p>" if subtitle else ""
    body = "\n".join(_section(section) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{_style()}</style>
</head>
<body>
<header>{_POT}<div><h1>{escape(title)}</h1>{under}</div></header>
<main>
{body}
</main>
</body>
</html>
"""


def _section(section: Section) -> str:
    heading = f"<h2>{escape(section.title)}</h2>" if section.title else ""
    match section:
        case KeyFigures():
            return f'<section class="keys">{heading}<dl>{"".join(map(_figure, section.figures))}</dl></section>'
        case Table():
            return f"<section>{heading}{_table(section)}{_note(section.note)}</section>"
        case Plot():
            return f"<section>{heading}<figure>{section.svg}</figure>{_note(section.note)}</section>"
        case Text(code=True):
            return f"<section>{heading}<pre>{escape(chr(10).join(section.paragraphs))}</pre></section>"
        case Text():
            return f"<section>{heading}{''.join(f'<p>{escape(one)}</p>' for one in section.paragraphs)}</section>"


def _figure(figure: Figure) -> str:
    return f"<div><dt>{escape(figure.label)}</dt><dd>{_words(figure.value)}</dd>{_note(figure.note)}</div>"


def _table(table: Table) -> str:
    for row in table.rows:
        need(len(row) == len(table.columns), f"{table.title}: a row of {len(row)} under {len(table.columns)} columns")
    sides = ["" if i == 0 or column in table.left else ' class="num"' for i, column in enumerate(table.columns)]
    heads = "".join(
        f'<th scope="col"{side}>{escape(column)}</th>' for side, column in zip(sides, table.columns, strict=True)
    )
    rows = "".join(f"<tr>{_cells(row, sides)}</tr>" for row in table.rows)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(table.title, quote=True)}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cells(row: tuple[Words, ...], sides: list[str]) -> str:
    first, *rest = row
    cells = "".join(f"<td{side}>{_words(cell)}</td>" for cell, side in zip(rest, sides[1:], strict=True))
    return f'<th scope="row">{_words(first)}</th>{cells}'


def _words(words: Words) -> str:
    if isinstance(words, str):
        return escape(words)
    mark, kind = {True: ("✓", "good"), False: ("✗", "bad"), None: ("", "plain")}[words.holds]
    told = {True: "held", False: "not held", None: ""}[words.holds]
    sign = f' <span role="img" aria-label="{told}">{mark}</span>' if mark else ""
    return f'<span class="{kind}">{escape(words.text)}{sign}</span>'


def _note(note: str) -> str:
    return f'<p class="small">{escape(note)}</p>' if note else ""


@cache
def _style() -> str:
    return Path(__file__).with_name("report.css").read_text(encoding="utf-8")


_POT = (
    '<svg class="pot" width="44" height="44" viewBox="0 0 44 44" aria-hidden="true">'
    '<path d="M9 17h21l-1.6 20a3 3 0 0 1-3 2.8H13.6a3 3 0 0 1-3-2.8z" class="ale"/>'
    '<path d="M7.5 7h24l-2.6 30.4a3 3 0 0 1-3 2.6H13.1a3 3 0 0 1-3-2.6z" class="glass"/>'
    '<path d="M30.6 14h4a4 4 0 0 1 4 4v6a6 6 0 0 1-6 6h-3.4M13.5 23h5M14 29h5" class="glass"/></svg>'
)
