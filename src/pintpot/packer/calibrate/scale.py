"""The second order held against the truth: weights really rounded, answers really compared, and everything scaled.

A few weights alone, and all weights together at several widths. What the sums of a table promise is about many small
changes, so the scale is that of all weights together; what is left of the spread is said as low..high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.packer.calibrate.fisher import rounded
from pintpot.packer.calibrate.forward import Forward, Texts
from pintpot.packer.calibrate.vocabulary import divergence

Floats = NDArray[np.float32]
Losses = Mapping[str, Mapping[str, float]]
CHECK_TOKENS = 1024
ALONE = ("sym4", "aff3", "sym5", "aff4")
"""Formats in which single weights are tried, in turn."""
TOGETHER = ("sym6", "sym5", "sym4")
LEAST_SPREAD = 1.15
NOTHING = 1e-7
"""Nats below which float32 says nothing about a ratio."""


@dataclass(frozen=True)
class Check:
    """One real change: `weight` "" is all of them; nats a token as predicted, and as found."""

    weight: str
    format: str
    predicted: float
    found: float

    @property
    def ratio(self) -> float:
        return self.found / self.predicted


@dataclass(frozen=True)
class Checked:
    """Losses to second order, by weight and format, and what became of some of them."""

    losses: Losses
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Fit:
    """What predictions are multiplied with: in the middle, and low..high."""

    scale: float
    low: float
    high: float


def fitted(checks: Sequence[Check]) -> Fit:
    """The scale of all weights together; low..high holds every such check, and most of the single ones."""
    known = [one for one in checks if one.predicted > NOTHING and one.found > NOTHING]
    whole = [math.log(one.ratio) for one in known if not one.weight]
    alone = [math.log(one.ratio) for one in known if one.weight]
    logs = whole or alone
    if not logs:
        return Fit(1.0, 1 / LEAST_SPREAD, LEAST_SPREAD)
    middle = sum(logs) / len(logs)
    spread = max(math.log(LEAST_SPREAD), *(abs(one - middle) for one in logs))
    if alone:
        spread = max(spread, abs(sum(alone) / len(alone) - middle) / 2)
    return Fit(math.exp(middle), math.exp(middle - spread), math.exp(middle + spread))


class Checks:
    """Real changes of a model, over the first texts; `states(index)` gives the unchanged ones before a block."""

    def __init__(self, forward: Forward, texts: Texts, losses: Losses, states: Callable[[int], NDArray[Any]]) -> None:
        self._forward, self._losses = forward, losses
        count = max(1, CHECK_TOKENS // max(map(len, texts)))
        # Evenly spread over the text, as those are that the losses were learned from.
        chosen = sorted({index * len(texts) // count for index in range(min(count, len(texts)))})
        self._texts = [texts[index] for index in chosen]
        self._lengths = [len(text) for text in self._texts]
        starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
        self._rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in chosen])
        self._states = states
        self._reference = forward.final(states(len(forward.blocks))[self._rows])

    def run(self, told: Callable[[], None], alone: int = 4, together: Sequence[str] = TOGETHER) -> tuple[Check, ...]:
        found = []
        for name, kept in self._singles(alone):
            found.append(self.single(name, kept))
        told()
        for kept in together:
            if all(kept in costs for costs in self._losses.values()):
                found.append(self.whole(kept))
            told()
        return tuple(found)

    def _singles(self, count: int) -> Iterator[tuple[str, str]]:
        """Weights spread over the blocks and over their roles."""
        blocks = self._forward.blocks
        for number in range(count):
            block = blocks[(2 * number + 1) * len(blocks) // (2 * count)]
            names = [name for name in block.weights if self._losses.get(name)]
            name = names[(3 * number) % len(names)]
            kept = ALONE[number % len(ALONE)]
            if kept in self._losses[name]:
                yield name, kept

    def single(self, name: str, kept: str) -> Check:
        """One weight of a block rounded, everything else as it is."""
        index = next(i for i, block in enumerate(self._forward.blocks) if name in block.weights)
        states = self._states(index)[self._rows]
        for number, block in enumerate(self._forward.blocks[index:]):
            values = self._forward.values(block)
            if number == 0:
                values[name] = rounded(values[name], kept)
            states = self._forward.run(block, values, states, self._lengths)
        return Check(name, kept, self._losses[name][kept], self._compared(states, None))

    def whole(self, kept: str) -> Check:
        """Every matrix rounded to one format."""
        embed = self._forward.rows(str(self._forward.embed.read("weight")))
        tokens = np.concatenate([np.asarray(text) for text in self._texts])
        words, places = np.unique(tokens, return_inverse=True)
        table = rounded(np.ascontiguousarray(embed[words]), kept)
        states = table[places] * np.float32(self._forward.embed.get("scale", 1.0))
        for block in self._forward.blocks:
            values = {
                name: rounded(array, kept) if name in self._losses else array
                for name, array in self._forward.values(block).items()
            }
            states = self._forward.run(block, values, states, self._lengths)
        return Check("", kept, sum(costs[kept] for costs in self._losses.values()), self._compared(states, kept))

    def _compared(self, states: Floats, kept: str | None) -> float:
        head = self._forward.rows(str(self._forward.head.read("weight")))
        changed = ((first, rows if kept is None else rounded(rows, kept)) for first, rows in head)
        return divergence(self._reference, head, self._forward.final(states), changed)
