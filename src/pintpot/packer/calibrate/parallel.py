"""Work over many pieces on a few threads, with the same bytes whatever their number.

Pieces are cut the same way always, each is computed by one thread, and results come in the order of the pieces. The
BLAS library must not split products by itself, for then the order of its sums depends on how many threads it has.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
_PREFIXES, _SUFFIXES = ("scipy_", ""), ("64_", "_64", "")


def ordered(function: Callable[[Item], Made], items: Iterable[Item], threads: int) -> Iterator[Made]:
    """function(item) of each item, in order; a few are computed ahead, and items are drawn by the caller's thread."""
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def each(function: Callable[[Item], object], items: Iterable[Item], threads: int) -> None:
    """As `ordered`, for what is done and not for what comes of it."""
    for _ in ordered(function, items, threads):
        pass


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Products run on the thread that asks for them. Of a library that is not OpenBLAS nothing is known or changed."""
    libraries = _openblas()
    before = [(put, get()) for put, get in libraries]
    try:
        for put, _ in libraries:
            put(1)
        yield
    finally:
        for put, number in before:
            put(number)


def _openblas() -> list[tuple[Callable[[int], object], Callable[[], int]]]:
    """What sets and tells the threads of each OpenBLAS that this process has loaded."""
    import numpy as np

    np.zeros((2, 2)) @ np.zeros((2, 2))  # loaded by now, if it ever is
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    paths = {line.split(maxsplit=5)[5] for line in maps if "openblas" in line}
    found: list[tuple[Callable[[int], object], Callable[[], int]]] = []
    for path in sorted(paths):
        library = ctypes.CDLL(path)
        for prefix in _PREFIXES:
            for suffix in _SUFFIXES:
                name = f"{prefix}openblas_%s_num_threads{suffix}"
                try:
                    found.append((library[name % "set"], library[name % "get"]))
                except AttributeError:
                    continue
    return found
