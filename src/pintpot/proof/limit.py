"""The hardware's own limit, by a small separate program: a plain loop that reads as many bytes, with as many threads.

For prefill and for steps of many sequences: multiply-adds at the int8 peak. For streamed weights: direct reads of the
same bytes, nothing else.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from pintpot import _native
from pintpot._native import measure
from pintpot.meter.memory import peak_bytes
from pintpot.packer.raw import WEIGHTS
from pintpot.stream.reader import disk_rate

FILL = 0x3C
READ_SECONDS = 0.15
DISK_SECONDS = 0.5


class Answerer:
    """Request `measure`."""

    def __init__(self, pack: Path, ram_bytes: str, threads: str) -> None:
        self._file = pack / WEIGHTS
        self._bytes = max(1 << 20, int(ram_bytes))
        self._pool = _native.Pool(int(threads))
        self._arena = _native.Arena(self._bytes, True)
        ctypes.memset(self._arena.address, FILL, self._arena.nbytes)
        self._read_seconds()

    def measure(self, disk_offset: int, disk_bytes: int, slot_bytes: int, in_flight: int) -> dict[str, Any]:
        """Bytes per second of RAM, multiply-adds per second in int8, and bytes per second of disk (0 without bytes)."""
        ram = self._bytes / self._read_seconds()
        operations, seconds = measure.peak(self._pool, False, 20_000)
        disk = 0.0
        if disk_bytes:
            disk = disk_rate(
                self._file, disk_offset, disk_bytes, in_flight=in_flight, block=slot_bytes, seconds=DISK_SECONDS
            ).bytes_per_s
        return {
            "ram_bytes_per_s": ram,
            "int8_per_s": operations / seconds,
            "disk_bytes_per_s": disk,
            "peak_bytes": peak_bytes(),
        }

    def _read_seconds(self) -> float:
        once = measure.read(self._pool, self._arena, self._bytes, 1)
        rounds = max(1, round(READ_SECONDS / once))
        return float(measure.read(self._pool, self._arena, self._bytes, rounds) / rounds)
