"""Pages of answers that were stopped, moved to a file beside the pack and back, where that beats computing them again.

Swapping and recomputing (Kwon et al. 2023, arXiv:2309.06180, section 4.5). The plan says what either takes; once pages
were moved, what that took counts. The file has no name, so whatever ends the process, nothing of it is left.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from pintpot.kernels.native.bind import Replay
from pintpot.planner.plan import Plan
from pintpot.program.layout import buffer_bytes
from pintpot.runtime.lending import Kept
from pintpot.runtime.sequence import Sequence

ALIGN = 4096
_REFUSED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
_FADING = 0.8


@dataclass
class Moves:
    """What became of answers that were stopped: how many were moved or are computed again, and what that was or takes.

    `page_s` are the seconds of one page in one direction.
    """

    page_s: float
    num_moved: int = 0
    num_computed: int = 0
    computed_tokens: int = 0
    moved_bytes: int = 0
    computed_s: float = 0.0
    moved_s: float = 0.0


NO_MOVES = Moves(0.0)
"""Of a cache that nobody shares."""


class Moving:
    """A `Mover` over the cache that `bound` sees. Where the folder takes no file, everything is computed again."""

    def __init__(self, plan: Plan, bound: Replay, folder: Path) -> None:
        program = bound.program
        self.moves = Moves(plan.cost.page_s.mid)
        self._plan, self._bound, self._folder = plan, bound, folder
        self._step_tokens = program.bound("tokens")
        caches = [buffer for buffer in program.buffers if buffer.holder == "cache"]
        self._page_bytes = [(one.name, buffer_bytes(program, one) // program.bound("pages")) for one in caches]
        self._record_bytes = -(-sum(size for _, size in self._page_bytes) // ALIGN) * ALIGN
        self._file = -1
        self._staged: mmap.mmap | None = None
        self._unused: list[int] = []
        self._num_records = 0

    def save(self, sequence: Sequence, num_prompt: int) -> Kept | None:
        """See `Mover`. None, too, where the disk has no room or takes no file."""
        num_tokens, pages = sequence.num_cached, sequence.table.pages
        num_words = max(0, num_tokens - num_prompt)
        computing, moving = self.computing_s(num_tokens - num_words, num_words), 2 * len(pages) * self.moves.page_s
        records = self._written(pages) if 0 < moving < computing else None
        if records is None:
            self.moves.num_computed += 1
            self.moves.computed_tokens += num_tokens
            self.moves.computed_s += computing
            return None
        self.moves.num_moved += 1
        return Kept(num_tokens, tuple(records))

    def load(self, kept: Kept, sequence: Sequence) -> None:
        """See `Mover`. What cannot be read is computed again."""
        size, pages = sequence.table.pool.page_tokens, sequence.table.pages
        for index in range(sequence.num_cached // size, len(kept.records)):
            if not self._moved(os.preadv, kept.records[index]):
                sequence.forget(index * size)
                return
            self._each(pages[index], out=False)
            sequence.num_cached = min(kept.num_tokens, (index + 1) * size)

    def drop(self, kept: Kept) -> None:
        """See `Mover`."""
        self._unused += kept.records

    def computing_s(self, num_prompt: int, num_words: int) -> float:
        """Seconds of reading so many tokens of a prompt, and of the steps of so many words, several in each."""
        prefill, decode = self._plan.cost.stage("prefill"), self._plan.cost.stage("decode")
        steps = ceil(num_words / self._step_tokens)
        return num_prompt * prefill.seconds.mid / prefill.tokens + steps * decode.each_s.mid

    def close(self) -> None:
        """Give the disk's room back."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._staged = -1, None

    def _written(self, pages: list[int]) -> list[int] | None:
        """Records of the file that hold these pages now."""
        if self._staged is None and not self._opened():
            return None
        records: list[int] = []
        for page in pages:
            if not self._unused:
                self._unused.append(self._num_records)
                self._num_records += 1
            records.append(self._unused.pop())
            self._each(page, out=True)
            if not self._moved(os.pwritev, records[-1]):
                self._unused += records
                return None
        return records

    def _moved(self, move: Callable[[int, list[mmap.mmap], int], int], record: int) -> bool:
        """One record between its place in the file and the memory beside it. False where the disk refuses."""
        started = time.perf_counter()
        try:
            if move(self._file, [self._staging], record * self._record_bytes) != self._record_bytes:
                return False
        except OSError:
            return False
        seconds, moves = time.perf_counter() - started, self.moves
        moves.page_s = _FADING * moves.page_s + (1 - _FADING) * seconds
        moves.moved_bytes += self._record_bytes
        moves.moved_s += seconds
        return True

    def _each(self, page: int, out: bool) -> None:
        """A page of every layer into the memory beside the cache, or back."""
        at, staged = 0, memoryview(self._staging)
        for name, size in self._page_bytes:
            cache = self._bound.bytes(name)[page * size : (page + 1) * size]
            if out:
                staged[at : at + size] = cache
            else:
                cache[:] = staged[at : at + size]
            at += size

    @property
    def _staging(self) -> mmap.mmap:
        assert self._staged is not None
        return self._staged

    def _opened(self) -> bool:
        """A file that nobody else sees, and memory for one record."""
        for flags in (os.O_DIRECT, 0):
            try:
                self._file = _nameless(self._folder, flags)
            except OSError:
                continue
            self._staged = mmap.mmap(-1, self._record_bytes)
            return True
        return False


def _nameless(folder: Path, flags: int) -> int:
    """A new file without a name in a folder."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
    handle, path = tempfile.mkstemp(dir=folder, prefix=".pages-")
    os.unlink(path)
    if not flags:
        return handle
    try:
        return os.open(f"/proc/self/fd/{handle}", os.O_RDWR | os.O_CLOEXEC | flags)
    finally:
        os.close(handle)
