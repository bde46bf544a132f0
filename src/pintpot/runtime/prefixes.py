"""Beginnings that texts share: a tree over pages of the cache, so that what was read once is not read again.

RadixAttention (Zheng et al. 2024, arXiv:2312.07104), by whole pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from pintpot.runtime.pages import NO_PAGE, PagePool
from pintpot.runtime.sequence import Sequence


class _Node:
    """A page in which certain tokens are written, after those of all nodes above it."""

    __slots__ = ("children", "key", "page", "parent", "used")

    def __init__(self, key: bytes, page: int, parent: _Node | None) -> None:
        self.key, self.page, self.parent = key, page, parent
        self.children: dict[bytes, _Node] = {}
        self.used = 0


class Prefixes:
    """What pages of a pool hold. Of pages that nobody uses those that were used least recently are dropped first.

    Whoever uses a page uses all those above it, so an idle page never has one in use below it. Where sequences give
    pages back as they go on that does not hold, and nothing is `shared`.
    """

    def __init__(self, pool: PagePool, shared: bool = True) -> None:
        self._pool, self._shared = pool, shared
        self._root = _Node(b"", NO_PAGE, None)
        self._victims: list[_Node] = []
        self._clock = count(1)
        self.num_pages = 0
        self.num_hit_tokens = self.num_asked_tokens = 0
        pool.reclaim = self._drop_one

    def find(self, prompt: memoryview[int]) -> list[int]:
        """Pages with the longest known beginning of a prompt; at least one token of it is always computed."""
        return [node.page for node in self._path(prompt, (len(prompt) - 1) // self._pool.page_tokens)]

    def begin(self, sequence: Sequence, prompt: memoryview[int]) -> None:
        """Let an empty sequence begin with what is known of its prompt."""
        self.num_asked_tokens += len(prompt)
        self.go_on(sequence, prompt)

    def go_on(self, sequence: Sequence, prompt: memoryview[int]) -> None:
        """Let a sequence that reads its prompt skip what others have read meanwhile, where it stands between pages."""
        size = self._pool.page_tokens
        if sequence.num_cached % size:
            return
        now, pages = next(self._clock), []
        for node in self._path(prompt, (len(prompt) - 1) // size):
            node.used = now
            pages.append(node.page)
        new = pages[len(sequence.table.pages) :]
        sequence.table.adopt(new)
        sequence.num_cached += len(new) * size
        self.num_hit_tokens += len(new) * size

    def keep(self, sequence: Sequence, num_tokens: int) -> None:
        """Know the whole pages of the first `num_tokens` tokens of a sequence, which are cached."""
        table, tokens, size = sequence.table, sequence.tokens, self._pool.page_tokens
        if not self._shared:
            return
        node, now = self._root, next(self._clock)
        for index in range(num_tokens // size):
            key = tokens[index * size : (index + 1) * size].tobytes()
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = _Node(key, table.pages[index], node)
                self._pool.keep(child.page)
                self.num_pages += 1
            elif child.page != table.pages[index]:
                table.swap(index, child.page)
            child.used, node = now, child

    def clear(self) -> None:
        """Forget everything; nobody uses any of it."""
        while self._pool.num_idle:
            self._drop_one()

    def audit(self) -> list[str]:
        """What is wrong with the tree, once no sequence runs."""
        nodes = sum(1 for _ in self._nodes())
        if nodes == self.num_pages == self._pool.num_idle:
            return []
        return [f"{nodes} pages in the tree, {self.num_pages} counted, {self._pool.num_idle} idle"]

    def _path(self, tokens: memoryview[int], most: int) -> Iterator[_Node]:
        node, size = self._root, self._pool.page_tokens
        for index in range(most):
            found = node.children.get(tokens[index * size : (index + 1) * size].tobytes())
            if found is None:
                return
            yield found
            node = found

    def _nodes(self) -> Iterator[_Node]:
        stack = list(self._root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack += node.children.values()

    def _drop_one(self) -> None:
        """Give up the idle leaf that was used least recently, as of the last time that all were looked at."""
        while True:
            if not self._victims:
                leaves = (node for node in self._nodes() if self._may_go(node))
                self._victims = sorted(leaves, key=lambda node: -node.used)
                if not self._victims:
                    return
            node = self._victims.pop()
            if self._may_go(node) and node.parent is not None:
                del node.parent.children[node.key]
                node.parent = None
                self._pool.drop(node.page)
                self.num_pages -= 1
                return

    def _may_go(self, node: _Node) -> bool:
        return not node.children and node.parent is not None and self._pool.is_idle(node.page)
