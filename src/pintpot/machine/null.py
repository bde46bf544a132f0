"""The null machine: fixed, round rates for everything, so that tests of planning and pricing know every answer."""

from __future__ import annotations

from collections.abc import Iterator

from pintpot.formats import KERNEL_FORMATS, encoding
from pintpot.machine.spec import (
    CACHE_FORMATS,
    DISK_BLOCKS,
    DISK_IN_FLIGHT,
    MATMUL_ROWS,
    PROLOGUES,
    WORKING_SETS,
    WRITE_BYTES,
    Device,
    Machine,
    Rate,
)
from pintpot.program.ops.attend import MANY

VALUES_PER_S = 10e9
"""Arithmetic of one null thread: weights a second in matvec and expand, whatever the format."""
MULTIPLY_ADDS_PER_S = 100e9
"""Arithmetic of one null thread in matmul; the bare peaks are twice this."""
NEVER_COUNTS = 1e21
"""Values a second of prologues: so fast that who calculates by hand may leave them out."""
CACHED = 1 << 20


def null_machine(
    memory_bytes: int = 8_000_000_000,
    threads: int = 2,
    ram_bw: float = 20e9,
    disk_bw: float = 2e9,
    *,
    process_bytes: int = 60_000_000,
    disk_free_bytes: int = 100_000_000_000,
    spread: float = 0.0,
) -> Machine:
    """A machine whose RAM gives `ram_bw` bytes/s to any number of threads and whose disk gives `disk_bw` always.

    Arithmetic grows with the threads (`VALUES_PER_S`, `MULTIPLY_ADDS_PER_S`). A product from RAM takes the slower
    of the two; from the caches (`size` of `CACHED`) arithmetic alone. `spread` 0.2 makes every rate 0.8, 1 and 1.2 of
    it.
    """
    rates = tuple(
        Rate(what, (1 - spread) * value, value, (1 + spread) * value, count, size)
        for what, value, count, size in _values(threads, ram_bw, disk_bw)
    )
    cpu = Device("null", "cpu", memory_bytes, threads, ("avx2",))
    return Machine("null", "measured", "null", (cpu,), rates, process_bytes, disk_free_bytes, True)


def _values(threads: int, ram_bw: float, disk_bw: float) -> Iterator[tuple[str, float, int, int]]:
    for count in range(1, threads + 1):
        for size in WORKING_SETS:
            yield "read", ram_bw, count, size
            yield "copy", ram_bw / 2, count, size
        for name in KERNEL_FORMATS:
            arithmetic = count * VALUES_PER_S
            from_ram = ram_bw * 16 * 4096 / encoding(name).strip_bytes(4096)
            yield f"matvec/{name}", min(arithmetic, from_ram), count, WORKING_SETS[1]
            yield f"matvec/{name}", arithmetic, count, CACHED
            yield f"expand/{name}", arithmetic, count, 0
            for rows in MATMUL_ROWS:
                yield f"matmul/{name}", min(count * MULTIPLY_ADDS_PER_S, rows * from_ram), count, rows
        yield "int8_peak", 2 * count * MULTIPLY_ADDS_PER_S, count, 0
        yield "float_peak", 2 * count * MULTIPLY_ADDS_PER_S, count, 0
        yield "barrier", 1e6, count, 0
        for what in PROLOGUES:
            yield f"prologue/{what}", NEVER_COUNTS, count, 1
        for name in CACHE_FORMATS:
            yield f"attend/{name}", ram_bw / 2, count, 0
            yield f"attend_start/{name}", 1e6, count, 0
            for kind in MANY[:2]:
                yield f"{kind}/{name}", count * MULTIPLY_ADDS_PER_S / 10, count, 0
    yield "call", 1e6, 1, 0
    for block in DISK_BLOCKS:
        for in_flight in DISK_IN_FLIGHT:
            yield "disk", disk_bw, in_flight, block
    yield "disk_write", disk_bw, 1, WRITE_BYTES
