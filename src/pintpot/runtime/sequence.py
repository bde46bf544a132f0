"""One sequence of an open pack: its place in the recorded programs, its pages, and the tokens that it consists of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pintpot.runtime.pages import NO_PAGE, PageTable


class Sequence:
    """Sequence number `seat` of every replay. The first `num_cached` of its `num_known` tokens are in the cache."""

    def __init__(self, seat: int, table: PageTable, context: int) -> None:
        self.seat = seat
        self.table = table
        # The last token drawn may be one that has no place in the cache any more.
        self.tokens: NDArray[np.int32] = np.zeros(context + 1, np.int32)
        self.num_cached = self.num_known = 0

    @property
    def cached(self) -> list[int]:
        """The tokens whose keys and values the cache holds, in order."""
        cached: list[int] = self.tokens[: self.num_cached].tolist()
        return cached

    def num_shared(self, prompt: NDArray[np.int32]) -> int:
        """Tokens at the start of a prompt whose cache could stay; at least one token is always computed."""
        most = min(self.num_cached, len(prompt) - 1)
        differ = np.flatnonzero(self.tokens[:most] != prompt[:most])
        same = int(differ[0]) if len(differ) else most
        # A window let pages go that an earlier position would see.
        return 0 if same < self.num_cached and NO_PAGE in self.table.pages else same

    def begin(self, prompt: NDArray[np.int32]) -> None:
        """Become the sequence of this prompt; what is cached of it stays."""
        self.forget(self.num_shared(prompt))
        self.tokens[: len(prompt)] = prompt
        self.num_known = len(prompt)

    def append(self, token: int) -> None:
        self.tokens[self.num_known] = token
        self.num_known += 1

    def forget(self, position: int) -> None:
        """Nothing from `position` on is cached any more."""
        self.num_cached = min(self.num_cached, position)
        self.table.truncate(self.num_cached)
