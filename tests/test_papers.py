"""docs/papers.md has a row for every technique there is, and for nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from pintpot.techniques import classes

DOCUMENT = Path(__file__).parent.parent / "docs" / "papers.md"


def rows() -> list[list[str]]:
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_technique_has_a_row() -> None:
    named = {row[0].strip("` ") for row in rows()}
    assert named == set(classes()), "run `python benchmarks/papers.py` (--only-write: without measuring anything)"


def test_a_row_says_where_its_technique_is_from() -> None:
    for row in rows():
        cls = classes()[row[0].strip("` ")]
        assert row[2] == f"`{cls.__module__.replace('.', '/')}.py`"
        for number in re.findall(r"\d{4}\.\d{5}", cls.paper):
            assert f"https://arxiv.org/abs/{number}" in row[1]
