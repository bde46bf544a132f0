"""A file written from its beginning to its end, past the page cache."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pintpot import _native
from pintpot.stream.border import native_errors

if TYPE_CHECKING:
    from typing_extensions import Buffer

BLOCK_BYTES = 4 << 20


class Writer:
    """Appends to a new file in aligned blocks of `block` bytes, all the memory that it takes.

    As a context manager it finishes the file (cut to its length, on the disk) or, when an error passes through, leaves
    it as it is. Raises DiskTooSmall where the disk is full, BadFile for any other refusal.
    """

    def __init__(self, path: Path | str, block: int = BLOCK_BYTES) -> None:
        self._what = f"writing {path}"
        with native_errors(self._what):
            self._native = _native.Writer(str(path), block)

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._native.position

    @property
    def direct(self) -> bool:
        """False where the filesystem refuses direct writes."""
        return self._native.direct

    def write(self, data: Buffer) -> None:
        with native_errors(self._what):
            self._native.write(data)

    def pad_to(self, multiple: int) -> None:
        """Zeros up to the next multiple."""
        self.write(bytes(-self.position % multiple))

    def finish(self) -> None:
        """Write what is left and wait until it rests on the disk."""
        with native_errors(self._what):
            self._native.finish()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self._native.abandon()
