"""A file of a fixed size that is read and written in place, in any order, past the page cache."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pintpot.errors import BadFile
from pintpot.stream.border import native_errors

PIECE_BYTES = 2 << 20
"""What is asked of the disk at a time; larger pieces are no faster."""
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP)


class Regions:
    """A file of `num_bytes`, made where there is none, all of whose room is taken at once: it cannot get full later.

    Places, sizes and the beginnings of memory are multiples of 4096.
    `direct` is False where the filesystem refuses to go past its cache; then pages are dropped behind what was read or
    written. Raises DiskTooSmall without room, BadFile for any other refusal.
    """

    def __init__(self, path: Path, num_bytes: int) -> None:
        self._path = path
        with native_errors(f"making room in {path}"):
            self._file, self.direct = _opened(path)
            try:
                os.posix_fallocate(self._file, 0, num_bytes)
            except OSError:
                os.close(self._file)
                raise

    def read(self, offset: int, memory: memoryview) -> None:
        """Fill `memory` from `offset`. Raises BadFile where the file cannot be read or ends early."""
        with native_errors(f"reading {self._path}"):
            at = 0
            while at < len(memory):
                got = os.preadv(self._file, [memory[at : at + PIECE_BYTES]], offset + at)
                if not got:
                    raise BadFile(f"{self._path} ends at byte {offset + at}")
                at += got
            self._drop(offset, at)

    def write(self, offset: int, memory: memoryview) -> None:
        """Put `memory` at `offset`. Raises DiskTooSmall, or BadFile."""
        with native_errors(f"writing {self._path}"):
            at = 0
            while at < len(memory):
                at += os.pwritev(self._file, [memory[at : at + PIECE_BYTES]], offset + at)
            if not self.direct:
                os.fdatasync(self._file)
            self._drop(offset, at)

    def flush(self) -> None:
        """Wait until all that was written rests on the disk."""
        with native_errors(f"writing {self._path}"):
            os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def _drop(self, offset: int, num_bytes: int) -> None:
        if not self.direct:
            os.posix_fadvise(self._file, offset, num_bytes, os.POSIX_FADV_DONTNEED)


def _opened(path: Path) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600), True
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return os.open(path, flags, 0o600), False
