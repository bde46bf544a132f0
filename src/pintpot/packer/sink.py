"""The weight file while it is written: bytes in order, with checksums of what passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pintpot.packer.checks import crc32c
from pintpot.stream.writer import Writer

if TYPE_CHECKING:
    from typing_extensions import Buffer

Progress = Callable[[int, int], None]


class Sink:
    """Writes a file of `num_bytes` and tells `progress(done, total)`. A context manager, as `Writer` is."""

    def __init__(self, path: Path, num_bytes: int, progress: Progress | None) -> None:
        self._writer = Writer(path)
        self._total, self._progress = num_bytes, progress

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._writer.position

    def write(self, data: Buffer) -> None:
        self._writer.write(data)
        if self._progress is not None:
            self._progress(self.position, self._total)

    def pad_to(self, offset: int) -> None:
        """Zeros up to an offset."""
        if offset > self.position:
            self.write(bytes(offset - self.position))


class CheckedRuns:
    """Writes through a sink and keeps one CRC-32C for each run of `run_bytes`."""

    def __init__(self, sink: Sink, run_bytes: int) -> None:
        self._sink, self._run_bytes = sink, run_bytes
        self._crcs: list[int] = []
        self._crc = self._in_run = 0
        self._start = sink.position

    def write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        self._sink.write(view)
        at = 0
        while at < len(view):
            part = view[at : at + self._run_bytes - self._in_run]
            self._crc = crc32c(part, self._crc)
            self._in_run += len(part)
            at += len(part)
            if self._in_run == self._run_bytes:
                self._end_run()

    def pad_to(self, offset: int) -> None:
        """Zeros up to an offset from where the first run began."""
        hole = self._start + offset - self._sink.position
        if hole > 0:
            self.write(bytes(hole))

    def finish(self) -> tuple[int, ...]:
        """The checksums of all runs, the last of which may be shorter."""
        if self._in_run:
            self._end_run()
        return tuple(self._crcs)

    def _end_run(self) -> None:
        self._crcs.append(self._crc)
        self._crc = self._in_run = 0
