"""Pages of the cache: which physical page holds which positions of a sequence (Kwon et al. 2023, arXiv:2309.06180)."""

from __future__ import annotations

from collections.abc import Callable

from pintpot.errors import DoesNotFit

NO_PAGE = -1
Ranges = tuple[tuple[int, int], ...]


class PagePool:
    """Physical pages, lent and taken back."""

    def __init__(self, num_pages: int, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """A free page. Raises DoesNotFit when all are lent."""
        if not self._free:
            raise DoesNotFit(f"all {self.num_pages} pages of {self.page_tokens} tokens are in use")
        return self._free.pop()

    def give_back(self, page: int) -> None:
        self._free.append(page)


class PageTable:
    """The pages of one sequence, by position. `keep(position)` says which earlier positions are seen from there."""

    def __init__(self, pool: PagePool, keep: Callable[[int], Ranges]) -> None:
        self._pool, self._keep = pool, keep
        self.pages: list[int] = []

    def extend(self, first: int, stop: int) -> list[int]:
        """Make room for positions [first, stop) and give back what none of them sees. Returns the table.

        Raises DoesNotFit when the pool is empty.
        """
        size = self._pool.page_tokens
        self._release(self._keep(first), first)
        while len(self.pages) * size < stop:
            self.pages.append(self._pool.take())
        return self.pages

    def truncate(self, stop: int) -> None:
        """Forget positions from `stop` on."""
        size = self._pool.page_tokens
        while len(self.pages) > -(-stop // size):
            self._give(len(self.pages) - 1)
            self.pages.pop()

    def _release(self, seen: Ranges, position: int) -> None:
        size = self._pool.page_tokens
        if seen[0][1] >= position:
            return
        for index in range(min(len(self.pages), position // size)):
            low, high = index * size, (index + 1) * size
            if not any(first < high and low < stop for first, stop in seen):
                self._give(index)

    def _give(self, index: int) -> None:
        if self.pages[index] != NO_PAGE:
            self._pool.give_back(self.pages[index])
            self.pages[index] = NO_PAGE
