"""What the machine itself does meanwhile, by the loops of Pintpot's probe: plain reads, barriers, arithmetic.

The limit of a step is a plain read loop over as many bytes, with as many threads, in pages of 2 MiB.
"""

from __future__ import annotations

import ctypes
from typing import Any

from contenders import Config

CONFIGS: tuple[Config, ...] = ()
_FILL = 0x3C
_SAMPLE_S = 0.1


class Limits:
    """Memory of so many bytes and a pool of so many threads."""

    def __init__(self, num_bytes: int, threads: int) -> None:
        import pintpot
        from pintpot import _native

        self._measure: Any = _native.measure
        self._pool, self._arena = _native.Pool(threads), _native.Arena(num_bytes)
        ctypes.memset(self._arena.address, _FILL, self._arena.nbytes)
        self._num_bytes = num_bytes
        self._measure.read(self._pool, self._arena, num_bytes, 1)
        self.versions = {"pintpot": pintpot.__version__}

    def sample(self) -> dict[str, float]:
        """`read` in bytes a second, `barrier_s`, `int8` and `float` in multiply-adds a second."""
        once = self._measure.read(self._pool, self._arena, self._num_bytes, 1)
        rounds = max(1, round(_SAMPLE_S / once))
        seconds = self._measure.read(self._pool, self._arena, self._num_bytes, rounds)
        int8, int8_s = self._measure.peak(self._pool, False, 20_000)
        floats, floats_s = self._measure.peak(self._pool, True, 20_000)
        return {
            "read": rounds * self._num_bytes / seconds, "barrier_s": self._pool.barrier_seconds(20_000),
            "int8": int8 / int8_s, "float": floats / floats_s,
        }  # fmt: skip


def open_peer(num_bytes: int, threads: int) -> Limits:
    """See `Limits`."""
    return Limits(num_bytes, threads)
