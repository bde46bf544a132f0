"""How fast the disk is written to: in place and past the page cache, as what learns is."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pintpot.errors import DiskTooSmall
from pintpot.machine.measure import Loop
from pintpot.machine.spec import WRITE_BYTES
from pintpot.stream.arena import open_arena
from pintpot.stream.regions import Regions


@contextmanager
def write_loops(folder: Path, num_bytes: int) -> Iterator[tuple[Loop, ...]]:
    """Writes over and over to a file of its own in a folder, gone afterwards; none where there is no room for it."""
    blocks = max(1, num_bytes // WRITE_BYTES)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".pintpot-probe-"))
            regions = Regions(Path(file.name), blocks * WRITE_BYTES)
        except (OSError, DiskTooSmall):
            yield ()
            return
        stack.callback(regions.close)
        arena = open_arena(WRITE_BYTES)
        stack.callback(arena.close)
        memory = stack.enter_context(memoryview(arena).cast("B"))
        place = {"at": 0}

        def write(rounds: int) -> tuple[float, float]:
            start = time.perf_counter()
            for _ in range(rounds):
                place["at"] = (place["at"] + 1) % blocks
                # No two blocks alike, for disks that would store them once.
                memory[:8] = time.perf_counter_ns().to_bytes(8, "little")
                regions.write(place["at"] * WRITE_BYTES, memory)
            return float(rounds * WRITE_BYTES), time.perf_counter() - start

        yield (Loop("disk_write", 1, WRITE_BYTES, write),)
