"""Images among the tokens of a prompt: which rows they take, and where their positions lie.

A picture's rows are tokens ~first, ~(first + 1) and so on, numbers that no other picture has; so prompts with equal
tokens are equal, images among them. Of each sequence the rows that its pictures take are laid out one after the other.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from pintpot.errors import UsageError, need

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    Floats = NDArray[float32]


@dataclass(frozen=True, eq=False)
class Picture:
    """One image, or one tile of it: `grid` (time, height, width) rows of embedding, and the tensors they come from."""

    first: int
    grid: tuple[int, int, int]
    tensors: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def num_rows(self) -> int:
        time, height, width = self.grid
        return time * height * width

    @property
    def tokens(self) -> range:
        """Its tokens in order: ~first and on."""
        return range(~self.first, ~self.first - self.num_rows, -1)


def check_pictures(tokens: Sequence[int], pictures: Iterable[Picture]) -> None:
    """Raise UsageError unless the tokens below 0 are those of the pictures, whole and in order."""
    wanted = [token for picture in pictures for token in picture.tokens]
    found = [token for token in tokens if token < 0]
    need(found == wanted, "the images of a prompt do not stand where its tokens say", UsageError)


class Placed:
    """The pictures of one sequence, and their rows among those that are given to it.

    `ready` are those whose rows are there, `starts` where in all three directions each begins, both by `first`.
    """

    def __init__(self) -> None:
        self.pictures: tuple[Picture, ...] = ()
        self.ready: set[int] = set()
        self.starts: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        # What they come from is large, and kept by whoever asked, for as long as the answer takes.
        self._sources: WeakValueDictionary[int, Picture] = WeakValueDictionary()

    def begin(self, pictures: tuple[Picture, ...]) -> None:
        """Lay out these; those at the beginning that are there already stay ready."""
        pairs = zip(self.pictures, pictures, strict=False)
        alike = {old.first for old, _ in takewhile(lambda pair: pair[0].first == pair[1].first, pairs)}
        self.pictures = tuple(replace(one, tensors={}) for one in pictures)
        self._sources = WeakValueDictionary({one.first: one for one in pictures})
        self.ready, self.starts, self._rows = self.ready & alike, {}, {}
        row = 0
        for picture in pictures:
            for offset in range(picture.num_rows):
                self._rows[~(picture.first + offset)] = row + offset
            row += picture.num_rows

    def within(self, tokens: Sequence[int]) -> list[Picture]:
        """The pictures that some of these tokens show."""
        shown = {token for token in tokens if token < 0}
        found = (picture for picture in self.pictures if not shown.isdisjoint(picture.tokens))
        return [self._sources.get(picture.first, picture) for picture in found]

    def row_of(self, picture: Picture) -> int:
        """The first row of a picture."""
        return self._rows[~picture.first]

    def placed(self, tokens: Iterable[int], first_row: int) -> array[int]:
        """Tokens as replays read them: those of pictures name their rows, which begin at `first_row`."""
        rows = self._rows
        return array("i", [token if token >= 0 else ~(first_row + rows[token]) for token in tokens])

    def turns(self, tokens: Sequence[int], first_row: int) -> tuple[array[int], int]:
        """What each token of a prompt turns by, and what the next one will: words count on, a picture's rows lie apart.

        After a picture words go on behind the larger of its height and its width (Wang et al. 2024, arXiv:2409.12191).
        """
        found, position = array("i"), 0
        ends = {picture.tokens[-1]: picture for picture in self.pictures}
        for token in tokens:
            if token >= 0:
                found.append(position)
                position += 1
                continue
            found.append(~(first_row + self._rows[token]))
            if token in ends:
                self.starts[ends[token].first] = position
                position += max(ends[token].grid[1:])
        return found, position


def picture_angles(table: Floats, axes: Sequence[int], start: int, grid: tuple[int, int, int]) -> Floats:
    """The rotary angles [rows, rope_dim] of a picture whose first row is at position `start` of all three directions.

    `axes` says of each pair of columns which direction turns it; `table` [positions, rope_dim] has the lines of words.
    """
    import numpy as np

    time, height, width = (axis.reshape(-1) for axis in np.indices(grid))
    positions = np.stack((time, height, width), axis=1) + start
    columns = np.arange(table.shape[1])
    found: Floats = table[positions[:, [*axes, *axes]], columns]
    return found
