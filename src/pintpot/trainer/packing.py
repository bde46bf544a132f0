"""Examples become sequences of equal length, and the order in which they are learned, both the same for a seed.

Examples lie one after the other in a sequence; none sees another, and each begins at position 0. S sequences of N
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadInput, need
from pintpot.trainer.data import Example, Examples

NOT_LEARNED = -1
HELD_OUT_SHARE = 0.05
MOST_HELD_OUT = 64


@dataclass(frozen=True)
class Sequences:
    """`tokens`, `targets` (the next word, or -1 where nothing is learned) and `starts`, each int32 [S, N].

    `starts` says of each token where in its sequence its example begins, `tasks` of which task it is; None where there
    is one; these are called `names`. `num_cut` examples were longer than a sequence.
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    starts: NDArray[np.int32]
    num_cut: int = 0
    tasks: NDArray[np.int32] | None = None
    names: tuple[str, ...] = ("",)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_learned(self) -> int:
        """Words that are learned."""
        return int((self.targets != NOT_LEARNED).sum())

    @property
    def num_bytes(self) -> int:
        """What they take in memory."""
        return self.tokens.nbytes + self.targets.nbytes + self.starts.nbytes

    def take(self, rows: NDArray[np.integer]) -> Sequences:
        """Some of the sequences, in the order of `rows`."""
        tasks = None if self.tasks is None else self.tasks[rows]
        return Sequences(self.tokens[rows], self.targets[rows], self.starts[rows], tasks=tasks, names=self.names)


def pack_sequences(examples: Examples, length: int) -> Sequences:
    """Sequences of `length` tokens. A text goes on in the next sequence; of a conversation that is longer the end goes.

    Raises BadInput where nothing is left to learn.
    """
    pieces, num_cut = _cut(examples, length)
    rows: list[list[Example]] = []
    room = 0
    for piece in pieces:
        if len(piece.tokens) > room:
            rows.append([])
            room = length
        rows[-1].append(piece)
        room -= len(piece.tokens)
    tokens, starts = (np.zeros((len(rows), length), np.int32) for _ in range(2))
    tasks = np.zeros_like(tokens) if len(examples.tasks) > 1 else None
    made = Sequences(tokens, np.full_like(tokens, NOT_LEARNED), starts, num_cut, tasks, examples.tasks)
    for row, parts in enumerate(rows):
        _fill(made, row, parts)
    taught = (made.targets != NOT_LEARNED).any(axis=1)
    need(bool(taught.any()), f"nothing to learn: no answer begins within {length} tokens")
    kept = made.take(np.flatnonzero(taught))
    return replace(kept, num_cut=num_cut)


def _cut(examples: Examples, length: int) -> tuple[list[Example], int]:
    """Examples of at most `length` tokens, and how many had to be cut."""
    pieces: list[Example] = []
    num_cut = 0
    for item in examples.items:
        long = len(item.tokens) > length
        num_cut += long
        stop = len(item.tokens) if examples.kind == "text" else min(length, len(item.tokens))
        parts = (slice(first, first + length) for first in range(0, stop, length))
        pieces += [Example(item.tokens[part][:length], item.learned[part], item.task) for part in parts]
    # A single word has no next one.
    return [piece for piece in pieces if len(piece.tokens) > 1], num_cut


def _fill(into: Sequences, row: int, parts: Sequence[Example]) -> None:
    first = 0
    for part in parts:
        stop = first + len(part.tokens)
        into.tokens[row, first:stop] = part.tokens
        into.starts[row, first:stop] = first
        if into.tasks is not None:
            into.tasks[row, first:stop] = part.task
        into.targets[row, first : stop - 1] = np.where(part.learned[1:], part.tokens[1:], NOT_LEARNED)
        first = stop
    into.starts[row, first:] = first


class Taken(Protocol):
    """Examples of which some can be taken."""

    def __len__(self) -> int: ...

    def take(self, rows: NDArray[np.integer]) -> Self:
        """Some of them, in the order of `rows`."""


Some = TypeVar("Some", bound=Taken)


def hold_out(sequences: Some, seed: int, share: float = HELD_OUT_SHARE, most: int = MOST_HELD_OUT) -> tuple[Some, Some]:
    """What is learned and what is only asked: a share of the sequences drawn by the seed, one at least.

    Raises BadInput for fewer than two sequences.
    """
    count = len(sequences)
    if count < 2:
        raise BadInput(
            "the examples fill a single sequence, and one more is wanted to see what was learned: "
            "give more examples, or shorter sequences"
        )
    held = min(most, max(1, round(share * count)))
    drawn = np.random.default_rng([seed, 1]).permutation(count)
    return sequences.take(np.sort(drawn[held:])), sequences.take(np.sort(drawn[:held]))


@dataclass(frozen=True)
class Order:
    """Which of `num_sequences` each step takes: every epoch in an order of its own, drawn from the seed.

    Number `number` of `ranks` processes takes `batch` of them, every other one.
    """

    num_sequences: int
    batch: int
    seed: int
    number: int = 0
    ranks: int = 1

    @property
    def steps_per_epoch(self) -> float:
        return self.num_sequences / (self.batch * self.ranks)

    def rows(self, step: int) -> NDArray[np.int64]:
        """The sequences of a step, counted from 0."""
        count = self.batch * self.ranks
        first = step * count + self.number
        return np.array([self._at(index) for index in range(first, (step + 1) * count, self.ranks)])

    def _at(self, index: int) -> int:
        epoch, place = divmod(index, self.num_sequences)
        return int(np.random.default_rng([self.seed, 2, epoch]).permutation(self.num_sequences)[place])
