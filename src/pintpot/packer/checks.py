"""Checksums of a pack: CRC-32C (Castagnoli), by the instruction that processors have for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_CHUNK_BYTES = 1 << 20


def crc32c(data: Buffer, start: int = 0) -> int:
    """CRC-32C of the bytes of a buffer, going on from `start`."""
    from pintpot import _native

    return int(_native.crc32c(data, start))


def crc32c_of_file(path: Path) -> int:
    """CRC-32C of a whole file, read in pieces. Raises OSError."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            crc = crc32c(chunk, crc)
    return crc
