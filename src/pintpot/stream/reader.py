"""Whole regions of a file into memory, and how fast a disk gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pintpot import _native
from pintpot.stream.border import native_errors

if TYPE_CHECKING:
    from typing_extensions import Buffer

BLOCK_BYTES = 4 << 20
IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes moved in so many seconds; `direct` is False where the filesystem made it go through the page cache."""

    num_bytes: int
    seconds: float
    direct: bool

    @property
    def bytes_per_s(self) -> float:
        return self.num_bytes / self.seconds


def read_into(
    path: Path | str, offset: int, destination: Buffer, *, in_flight: int = IN_FLIGHT, block: int = BLOCK_BYTES
) -> Transfer:
    """Fill a writable buffer from `offset` of a file, `in_flight` reads of up to `block` bytes at a time.

    Nothing is copied where the buffer's address and `offset` are equal modulo 4096; elsewhere each read goes through
    256 KiB. Raises BadFile where the file cannot be read or ends early.
    """
    with native_errors(f"reading {path}"):
        return Transfer(*_native.read_into(str(path), offset, destination, in_flight, block))


def disk_rate(path: Path | str, offset: int, num_bytes: int, *, in_flight: int, block: int, seconds: float) -> Transfer:
    """Read a region over and over for about `seconds` and throw the bytes away. Raises BadFile."""
    with native_errors(f"reading {path}"):
        return Transfer(*_native.disk_rate(str(path), offset, num_bytes, in_flight, block, seconds))
