"""Memory that is mapped and touched before it is needed, so that what has started never runs out."""

from __future__ import annotations

from pintpot._native import Arena
from pintpot.stream.border import native_errors


def open_arena(num_bytes: int, *, huge: bool = True, prefault: bool = True) -> Arena:
    """An arena of `num_bytes` (rounded up to 4096), zero, at a 2 MiB boundary.

    `memoryview(arena)` and `numpy.frombuffer(arena, dtype)` see it; `arena.close()` gives it back at once and raises
    BufferError while a view, a ring or a replay uses it. `huge` asks for huge pages where whole ones fit: direct reads
    into them are twice as fast (LOG.md). Without `prefault` memory comes as it is touched. Raises DoesNotFit.
    """
    with native_errors(f"{num_bytes} bytes of memory"):
        return Arena(num_bytes, huge, prefault)
