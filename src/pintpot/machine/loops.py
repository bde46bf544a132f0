"""What is timed on the processor, through the runtime's own thread pool and kernels, and on the disk.

Formats, thread counts and sizes are spread so that a plan finds a neighbour for whatever it prices.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pintpot.errors import DiskTooSmall
from pintpot.formats import KERNEL_FORMATS, STRIP_ROWS, encoding
from pintpot.machine.attention import attention_loops, has_tiles
from pintpot.machine.measure import Loop
from pintpot.machine.spec import (
    CACHE_FORMATS,
    DISK_BLOCKS,
    DISK_IN_FLIGHT,
    LOOKUP_BYTES,
    MATMUL_ROWS,
    PROLOGUE_ROWS,
    PROLOGUES,
    WORKING_SETS,
)
from pintpot.meter.disk import existing, free_bytes
from pintpot.program.ops.linear import PLANES, suffix

if TYPE_CHECKING:
    from pintpot._native import Arena, Pool

COLUMNS = 1024
_CACHED_BYTES = 1 << 20
_MATVEC_BYTES = {True: 64_000_000, False: WORKING_SETS[1]}
_MATMUL_VALUES = 1 << 20
_FILL = 0x3C
"""Read as float16, float32 or bfloat16 it is an ordinary number, so no loop meets a slow one."""

_QUICK_FORMATS = ("sym8", "sym4", "q4_k", "q6_k", "f16")


@dataclass(frozen=True, slots=True)
class Bench:
    """Pools by number of threads and the memory that loops work on."""

    pools: tuple[Pool, ...]
    arena: Arena
    quick: bool

    @property
    def formats(self) -> tuple[str, ...]:
        return _QUICK_FORMATS if self.quick else KERNEL_FORMATS

    def formats_of(self, pool: Pool) -> tuple[str, ...]:
        """All formats with one thread and with all, a few in between: many-core machines have many counts."""
        return self.formats if pool in (self.pools[0], self.pools[-1]) else _QUICK_FORMATS


def bench(threads: tuple[int, ...], arena_bytes: int, quick: bool) -> Bench:
    """Starts the pools and fills the memory."""
    from pintpot import _native

    arena = _native.Arena(arena_bytes)
    ctypes.memset(arena.address, _FILL, arena.nbytes)
    return Bench(tuple(_native.Pool(count) for count in threads), arena, quick)


def thread_counts(cores: int, quick: bool) -> tuple[int, ...]:
    """1, 2, 4 ... and all; a quick probe takes all."""
    counts = {cores} if quick else {1, cores, *(1 << power for power in range(cores.bit_length()))}
    return tuple(sorted(count for count in counts if count <= cores))


def cpu_loops(bench: Bench) -> Iterator[Loop]:
    """Everything that is timed with threads, most important first."""
    for pool in bench.pools:
        yield from _memory_loops(bench, pool)
        yield from _pool_loops(bench, pool)
        yield from _prologue_loops(bench, pool)
        for name in bench.formats_of(pool):
            yield from _weight_loops(bench, pool, name)
        for name in CACHE_FORMATS:
            yield from attention_loops(bench, pool, name)


def _memory_loops(bench: Bench, pool: Pool) -> Iterator[Loop]:
    from pintpot._native import measure

    sizes = [size for size in WORKING_SETS if size <= bench.arena.nbytes] or [bench.arena.nbytes]
    for size in sizes[-1:] if bench.quick else sizes:

        def read(rounds: int, size: int = size) -> tuple[float, float]:
            return float(rounds * size), measure.read(pool, bench.arena, size, rounds)

        def copy(rounds: int, size: int = size) -> tuple[float, float]:
            return float(rounds * (size // 2)), measure.copy(pool, bench.arena, size, rounds)

        yield Loop("read", pool.size, size, read)
        yield Loop("copy", pool.size, size, copy)


def _pool_loops(bench: Bench, pool: Pool) -> Iterator[Loop]:
    from pintpot._native import measure

    def calls(rounds: int) -> tuple[float, float]:
        start = time.perf_counter()
        for _ in range(rounds):
            pool.run_seconds(1)
        return float(rounds), time.perf_counter() - start

    def barriers(rounds: int) -> tuple[float, float]:
        many = 20_000 * rounds  # waking the pool, and finding out how long to look, must weigh nothing
        return float(many), many * pool.barrier_seconds(many)

    def turns(rounds: int) -> tuple[float, float]:
        return float(rounds), measure.strips(pool, bench.arena, "sym8", COLUMNS, pool.size, 1, 1, False, rounds)

    yield Loop("barrier", pool.size, 0, barriers)
    yield Loop("turn", pool.size, 0, turns)
    yield Loop("call", pool.size, 0, calls)
    yield Loop("int8_peak", pool.size, 0, lambda rounds: measure.peak(pool, False, 1000 * rounds))
    yield Loop("float_peak", pool.size, 0, lambda rounds: measure.peak(pool, True, 1000 * rounds))


def _weight_loops(bench: Bench, pool: Pool, name: str) -> Iterator[Loop]:
    """Products of one format: with rows as int8, and, where `bench` is not quick, in two planes and as float32.

    Rows in bfloat16 are for many rows, and timed where the processor multiplies tiles of them.

    Tables differ from other formats in how a code is read, which is done once for all rows and planes: of two planes
    only the products with one row are timed, and of float32 rows none; plans take the rest from what was measured.
    """
    strip_bytes = encoding(name).strip_bytes(COLUMNS)
    most = bench.arena.nbytes // strip_bytes
    ram = min(most, _MATVEC_BYTES[bench.quick] // strip_bytes)
    cached = max(pool.size, _CACHED_BYTES // strip_bytes)
    wide = max(pool.size, _MATMUL_VALUES // (STRIP_ROWS * COLUMNS))
    kind = encoding(name).kind
    ways = (0,) if kind == "float" else (1,) if bench.quick else (1, 2) if kind == "table" else (1, 2, 0)
    for planes in ways:
        yield _strips(bench, pool, name, ram, 1, planes, ram * strip_bytes)
        yield _strips(bench, pool, name, cached, 1, planes, _CACHED_BYTES)
        for rows in MATMUL_ROWS[1:2] if bench.quick else () if (kind, planes) == ("table", 2) else MATMUL_ROWS:
            yield _strips(bench, pool, name, wide, rows, planes, rows)
    if kind != "float" and has_tiles():
        for rows in (*MATMUL_ROWS, 2 * MATMUL_ROWS[-1]):  # their expansion is still felt beyond the usual ones
            yield _strips(bench, pool, name, wide, rows, PLANES["bfloat16"], rows)


def _strips(bench: Bench, pool: Pool, name: str, num_strips: int, rows: int, planes: int, size: int) -> Loop:
    from pintpot._native import measure

    owned = rows == 1 and size == _CACHED_BYTES

    def run(rounds: int) -> tuple[float, float]:
        seconds = measure.strips(pool, bench.arena, name, COLUMNS, num_strips, rows, planes, owned, rounds)
        return float(rounds * num_strips * STRIP_ROWS * COLUMNS * rows), seconds

    return Loop(f"{'matvec' if rows == 1 else 'matmul'}/{name}{suffix(name, planes)}", pool.size, size, run)


def _prologue_loops(bench: Bench, pool: Pool) -> Iterator[Loop]:
    """What comes before a product: for a single row, which is one thread's, and for many."""
    from pintpot._native import measure

    for what in PROLOGUES[:3] if bench.quick else PROLOGUES:
        for rows in PROLOGUE_ROWS:

            def run(rounds: int, what: str = what, rows: int = rows) -> tuple[float, float]:
                return float(rounds * rows * COLUMNS), measure.prologue(pool, what, COLUMNS, rows, rounds)

            yield Loop(f"prologue/{what}", pool.size, rows, run)


def packing_loops(formats: tuple[str, ...]) -> Iterator[Loop]:
    """Rounding to (or, for the superblock formats, permuting into) each format, one thread, as the packer does it."""
    import numpy as np

    from pintpot.formats.convert import convert, encode

    values = np.random.default_rng(0).standard_normal((64, COLUMNS), dtype=np.float32)
    for name in formats:
        form = encoding(name)
        raw = np.zeros((64, form.row_bytes(COLUMNS)), dtype=np.uint8)
        held = values * (np.arange(COLUMNS) % 4 < 2) if form.kind == "two_four" else values

        def once(name: str = name, held: np.ndarray = held, raw: np.ndarray = raw) -> None:
            if encoding(name).kind == "super":
                convert(raw, name, name, COLUMNS)
            else:
                encode(held, name)

        yield Loop(f"expand/{name}", 1, 0, _repeated(once, float(values.size)))


def _repeated(once: Callable[[], None], units: float) -> Callable[[int], tuple[float, float]]:
    def run(rounds: int) -> tuple[float, float]:
        start = time.perf_counter()
        for _ in range(rounds):
            once()
        return rounds * units, time.perf_counter() - start

    return run


@contextmanager
def disk_file(path: Path, num_bytes: int) -> Iterator[tuple[Path, int]]:
    """A file to read and its size: `path` itself where it is a file, else one written in that folder and removed.

    Raises DiskTooSmall where not even a small one fits.
    """
    if path.is_file() and path.stat().st_size >= max(DISK_BLOCKS):
        size = path.stat().st_size
        yield path, size // max(DISK_BLOCKS) * max(DISK_BLOCKS)
        return
    from pintpot import _native

    folder = existing(path if not path.is_file() else path.parent)
    size = min(num_bytes, free_bytes(folder) // 10) // max(DISK_BLOCKS) * max(DISK_BLOCKS)
    if size == 0:
        raise DiskTooSmall(f"{folder} has no room for a test file; free 50 MB")
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".pintpot-probe-")
    os.close(descriptor)
    try:
        writer = _native.Writer(name, max(DISK_BLOCKS))
        block = os.urandom(max(DISK_BLOCKS))
        for index in range(size // max(DISK_BLOCKS)):  # no two blocks alike, for disks that would store them once
            writer.write(index.to_bytes(8, "little") + block[8:])
        writer.finish()
        yield Path(name), size
    finally:
        Path(name).unlink(missing_ok=True)


def disk_loops(path: Path, num_bytes: int, quick: bool) -> Iterator[Loop]:
    """Direct reads by block size and number in flight, each sample from another part of the file."""
    from pintpot import _native

    seconds = 0.04 if quick else 0.05
    grid = [("disk", block, count) for block in DISK_BLOCKS for count in DISK_IN_FLIGHT]
    grid += [("lookup", LOOKUP_BYTES, count) for count in DISK_IN_FLIGHT]
    few = [("disk", 1 << 20, 1), *(("disk", size, 4) for size in DISK_BLOCKS), ("lookup", LOOKUP_BYTES, 2)]
    for asked in (grid, few):
        asked.append(("disk", 128 << 10, 3))  # as the smallest ring reads
    span = max(max(DISK_BLOCKS), num_bytes // 4 // max(DISK_BLOCKS) * max(DISK_BLOCKS))
    place = {"at": 0}
    for what, block, count in few if quick else grid:

        def run(rounds: int, block: int = block, count: int = count) -> tuple[float, float]:
            place["at"] = (place["at"] + span) % max(1, num_bytes - span + 1) // max(DISK_BLOCKS) * max(DISK_BLOCKS)
            done, taken, _ = _native.disk_rate(str(path), place["at"], span, count, block, seconds)
            return float(done), taken

        yield Loop(what, count, block, run)
