"""Decode speed of several files and packs, taking turns in one run: rounds as those beside the peers have them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from contenders import Config
from rounds import Entrant, Task, heats, rounds
from verdicts import Ratio

PROMPT, ANSWER, ROUNDS, HEATS = 256, 128, 12, 2


def own(name: str, pack: Path) -> Entrant:
    """A pack of ours, which goes on to the rounds whatever the others are."""
    return Entrant(Config("pintpot", "Pintpot", name, stands_for=("decode",)), {"model": str(pack)})


def decode_in_turn(entrants: list[Entrant], num_bytes: int, number: int = ROUNDS) -> dict[str, Any]:
    """Heats, from which the best of each group of others goes on, and rounds: samples by label, ours first."""
    task = Task(PROMPT, ANSWER, 1, ("decode",), trained=False)
    others = [entrant for entrant in entrants if not entrant.config.stands_for]
    finalists = [entrant for entrant in entrants if entrant.config.stands_for]
    rows: list[dict[str, Any]] = []
    if others:
        best, rows = heats(others, task, HEATS)
        finalists += best
    return {"heats": rows, "finals": rounds(finalists, {"num_bytes": num_bytes, "threads": 2}, task, number, True)}


def ratio_of(found: dict[str, Any], one: str, other: str) -> Ratio:
    """How many times as fast one label decodes as another, by pairs of one round."""
    pairs = zip(found["finals"][one], found["finals"][other], strict=True)
    return Ratio.of([(a["decode"] / b["decode"], max(a["foreign"], b["foreign"])) for a, b in pairs])
