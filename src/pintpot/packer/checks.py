"""Checksums of a pack: CRC-32C (Castagnoli), by the instruction that processors have for it."""

from __future__ import annotations

from typing import Any


def crc32c(data: Any, start: int = 0) -> int:
    """CRC-32C of the bytes of a buffer, going on from `start`."""
    from pintpot import _native

    return int(_native.crc32c(data, start))
