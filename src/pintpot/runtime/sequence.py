"""One sequence of an open pack: its place in the recorded programs, its pages, and the tokens that it consists of."""

from __future__ import annotations

from array import array
from bisect import bisect_left

from pintpot.runtime.pages import NO_PAGE, PageTable
from pintpot.runtime.pictures import Picture, Placed


class Sequence:
    """Sequence number `seat` of every replay. The first `num_cached` of its `num_known` tokens are in the cache.

    Rows `first_row` and on of those given are for its pictures.
    """

    def __init__(self, seat: int, table: PageTable, context: int) -> None:
        self.seat = seat
        self.table = table
        # The last token drawn may be one that has no place in the cache any more.
        self.tokens = memoryview(array("i", bytes(4 * (context + 1))))
        self.num_cached = self.num_known = 0
        self.placed, self.first_row = Placed(), 0
        self._turns: array[int] | None = None
        self._next_turn = 0

    @property
    def cached(self) -> list[int]:
        """The tokens whose keys and values the cache holds, in order."""
        return self.tokens[: self.num_cached].tolist()

    def num_shared(self, prompt: array[int]) -> int:
        """Tokens at the start of a prompt whose cache could stay; at least one token is always computed."""
        most = min(self.num_cached, len(prompt) - 1)
        same = _num_equal(self.tokens[:most], memoryview(prompt)[:most])
        # A window let pages go that an earlier position would see.
        return 0 if same < self.num_cached and NO_PAGE in self.table.pages else same

    def begin(self, prompt: array[int], pictures: tuple[Picture, ...] = (), sections: bool = False) -> None:
        """Become the sequence of this prompt; what is cached of it stays.

        With `sections` the rows of pictures turn by angles of their own.
        """
        self.forget(self.num_shared(prompt))
        self.placed.begin(pictures)
        self._turns = None
        if sections and pictures:
            self._turns, self._next_turn = self.placed.turns(prompt, self.first_row)
        self.tokens[: len(prompt)] = prompt
        self.num_known = len(prompt)

    def turns(self, first: int, stop: int) -> array[int] | None:
        """What tokens [first, stop) turn by; None where that is their position."""
        if self._turns is None:
            return None
        behind = self._next_turn - len(self._turns)
        return self._turns[first:stop] + array("i", range(max(first, len(self._turns)) + behind, stop + behind))

    def append(self, token: int) -> None:
        self.tokens[self.num_known] = token
        self.num_known += 1

    def forget(self, position: int) -> None:
        """Nothing from `position` on is cached any more; of a page that others use, too, nothing at all."""
        self.num_cached = min(self.num_cached, position)
        self.table.truncate(self.num_cached)
        size, pages = self.table.pool.page_tokens, self.table.pages
        if self.num_cached % size and pages[-1] != NO_PAGE and self.table.pool.is_shared(pages[-1]):
            self.num_cached -= self.num_cached % size
            self.table.truncate(self.num_cached)


def _num_equal(one: memoryview[int], other: memoryview[int]) -> int:
    """How many items at the beginning of two sequences of one length are equal."""
    if one == other:
        return len(one)
    # The first stretch that differs ends with the first item that does.
    return bisect_left(range(1, len(one)), True, key=lambda size: one[:size] != other[:size])
