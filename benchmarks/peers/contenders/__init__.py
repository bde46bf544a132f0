"""Who takes part: one small file for each, found by being there.

A file has `CONFIGS` (its documented configurations, which the runner reads) and `open_peer(**knobs)`, which its own
process calls and which gives something with `answers(prompts, number)`. So a file imports what it measures late.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol


@dataclass(frozen=True)
class Config:
    """One way to run a peer: `group` competes within itself, and its best goes on to the rounds.

    `source` names the form of the model that it takes; `files` the tasks it is for; `stands_for` the figures that
    count (none named: all); `quick` whether the short run has it.
    """

    module: str
    group: str
    name: str
    source: str = "as is"
    task: str = "answering"
    knobs: dict[str, Any] = field(default_factory=dict)
    stands_for: tuple[str, ...] = ()
    quick: bool = True

    @property
    def label(self) -> str:
        return f"{self.group}, {self.name}"


class Peer(Protocol):
    """What answers in a contender's process."""

    versions: dict[str, str]

    def answers(self, prompts: list[list[int]], number: int) -> dict[str, Any]:
        """Greedy, `number` tokens each whatever they are, made text inside the time; one prompt where it knows no more.

        Gives `number` (of all tokens), `first_s` (from the question until every answer has begun), `first_number`
        (tokens that had come by then), `rest_s` (from there to the last one) and `texts`.
        """


def timed(started: float, words: Iterable[tuple[float, int]], ended: float) -> dict[str, Any]:
    """These figures, but for `texts`, out of when each token came and to which prompt, in order."""
    times = list(words)
    begun: dict[int, int] = {}
    for position, (_, prompt) in enumerate(times):
        begun.setdefault(prompt, position)
    last = max(begun.values())
    first_at = times[last][0]
    first_number = sum(at <= first_at for at, _ in times)
    return {
        "number": len(times), "first_number": first_number, "first_s": first_at - started, "rest_s": ended - first_at,
    }  # fmt: skip


@cache
@dataclass
class Chosen:
    """Whose configurations take part: Pintpot's, and those of the groups with this text in their name."""

    beside: str = ""


CHOSEN = Chosen()


def configs(task: str) -> tuple[Config, ...]:
    """Every configuration of those who take part in a task, in the order of their files."""
    found: list[Config] = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        found += importlib.import_module(f"{__name__}.{module.name}").CONFIGS
    part = (config for config in found if config.task == task)
    return tuple(config for config in part if config.module == "pintpot" or CHOSEN.beside in config.group)
