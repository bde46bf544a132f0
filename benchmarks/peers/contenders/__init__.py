"""Who takes part: one small file for each, found by being there.

A file has `CONFIGS` (its documented configurations, which the runner reads) and `open_peer(**knobs)`, which its own
process calls and which gives something with `answer(tokens, number)`. So a file imports what it measures late.
"""

from __future__ import annotations

import importlib
import pkgutil
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

    def answer(self, tokens: list[int], number: int) -> dict[str, Any]:
        """Greedy, `number` tokens whatever they are, every word made text at once.

        Gives `number`, `first_s` (from the question to the first word), `first_number` (tokens that had come by then),
        `rest_s` (from there to the last word) and `text`.
        """


@cache
def configs(task: str) -> tuple[Config, ...]:
    """Every configuration there is for a task, in the order of their files."""
    found: list[Config] = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        found += importlib.import_module(f"{__name__}.{module.name}").CONFIGS
    return tuple(config for config in found if config.task == task)
