"""Pages of the cache: which physical page holds which positions of a sequence (Kwon et al. 2023, arXiv:2309.06180)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pintpot.errors import DoesNotFit

NO_PAGE = -1
Ranges = tuple[tuple[int, int], ...]


class PagePool:
    """Physical pages: free, used by one sequence or several, or idle: kept for whoever begins alike, until needed.

    `reclaim` is asked to `drop` an idle page when no other is left. A sequence uses at most `most` pages at a time.
    """

    def __init__(self, num_pages: int, page_tokens: int, most: int | None = None) -> None:
        self.page_tokens = page_tokens
        self.num_pages = num_pages
        self._most = most
        self.num_idle = 0
        self.reclaim: Callable[[], None] | None = None
        self._free = list(range(num_pages - 1, -1, -1))
        self._uses = [0] * num_pages
        self._kept: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_pages - self.num_free - self.num_idle

    def num_for(self, positions: int) -> int:
        """Pages that a sequence of so many positions comes to need."""
        needed = -(-positions // self.page_tokens)
        return needed if self._most is None else min(needed, self._most)

    def take(self) -> int:
        """A free page. Raises DoesNotFit when all are in use."""
        if not self._free and self.num_idle and self.reclaim is not None:
            self.reclaim()
        if not self._free:
            raise DoesNotFit(f"all {self.num_pages} pages of {self.page_tokens} tokens are in use")
        page = self._free.pop()
        self._uses[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more sequence uses a page."""
        self.num_idle -= self.is_idle(page)
        self._uses[page] += 1

    def give_back(self, page: int) -> None:
        """One sequence fewer uses a page."""
        self._uses[page] -= 1
        if self._uses[page] == 0:
            if page in self._kept:
                self.num_idle += 1
            else:
                self._free.append(page)

    def keep(self, page: int) -> None:
        """A page in use becomes idle, and not free, when its last user has gone."""
        self._kept.add(page)

    def drop(self, page: int) -> None:
        """An idle page becomes free."""
        self._kept.remove(page)
        self.num_idle -= 1
        self._free.append(page)

    def is_idle(self, page: int) -> bool:
        return self._uses[page] == 0 and page in self._kept

    def is_shared(self, page: int) -> bool:
        """Whether anybody else would notice were something else written there."""
        return self._uses[page] > 1 or page in self._kept

    def audit(self, tables: Iterable[PageTable]) -> list[str]:
        """What is wrong with the books, given all tables there are; nothing where every page is where it should be."""
        uses = [0] * self.num_pages
        for table in tables:
            for page in table.pages:
                if page != NO_PAGE:
                    uses[page] += 1
        wrong = [
            f"page {page}: {self._uses[page]} users booked, {found} found"
            for page, found in enumerate(uses)
            if found != self._uses[page]
        ]
        free, idle = set(self._free), {page for page in self._kept if uses[page] == 0}
        if len(free) != len(self._free) or free & self._kept or any(uses[page] for page in free):
            wrong.append("a page is free twice, or free and in use")
        if len(idle) != self.num_idle:
            wrong.append(f"{self.num_idle} idle pages booked, {len(idle)} found")
        lost = self.num_pages - len(free) - len(idle) - sum(count > 0 for count in uses)
        return [*wrong, *([f"{lost} pages belong to nobody"] if lost else [])]


class PageTable:
    """The pages of one sequence, by position. `keep(position)` says which earlier positions are seen from there."""

    def __init__(self, pool: PagePool, keep: Callable[[int], Ranges]) -> None:
        self.pool, self._keep = pool, keep
        self.pages: list[int] = []

    @property
    def num_held(self) -> int:
        return len(self.pages) - self.pages.count(NO_PAGE)

    def adopt(self, pages: Iterable[int]) -> None:
        """Begin with pages that others have written; there are none yet."""
        for page in pages:
            self.pool.share(page)
            self.pages.append(page)

    def swap(self, index: int, page: int) -> None:
        """Use another page in which the same is written."""
        self.pool.share(page)
        self.pool.give_back(self.pages[index])
        self.pages[index] = page

    def extend(self, first: int, stop: int) -> list[int]:
        """Make room for positions [first, stop) and give back what none of them sees. Returns the table.

        Raises DoesNotFit when the pool is empty.
        """
        size = self.pool.page_tokens
        self._release(self._keep(first), first)
        while len(self.pages) * size < stop:
            self.pages.append(self.pool.take())
        return self.pages

    def truncate(self, stop: int) -> None:
        """Forget positions from `stop` on."""
        size = self.pool.page_tokens
        while len(self.pages) > -(-stop // size):
            self._give(len(self.pages) - 1)
            self.pages.pop()

    def _release(self, seen: Ranges, position: int) -> None:
        size = self.pool.page_tokens
        if seen[0][1] >= position:
            return
        for index in range(min(len(self.pages), position // size)):
            low, high = index * size, (index + 1) * size
            if not any(first < high and low < stop for first, stop in seen):
                self._give(index)

    def _give(self, index: int) -> None:
        if self.pages[index] != NO_PAGE:
            self.pool.give_back(self.pages[index])
            self.pages[index] = NO_PAGE
