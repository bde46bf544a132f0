"""Measures this machine: RAM, processor, disk and graphics card, as the runtime will use them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pintpot.errors import DiskTooSmall, UnsupportedPlatform, need
from pintpot.machine.cuda import cuda_device, cuda_loops
from pintpot.machine.features import Cpu, cpu, fingerprint
from pintpot.machine.loops import bench, cpu_loops, disk_file, disk_loops, packing_loops, thread_counts
from pintpot.machine.measure import Progress, measure
from pintpot.machine.process import ProcessSize
from pintpot.machine.spec import WORKING_SETS, Device, Machine, Rate
from pintpot.machine.writes import write_loops
from pintpot.meter.clock import Watch
from pintpot.meter.disk import free_bytes, takes_direct_reads
from pintpot.meter.home import home
from pintpot.meter.memory import available
from pintpot.units import format_bytes

_ARENA_BYTES = {True: WORKING_SETS[1], False: WORKING_SETS[2]}
_FILE_BYTES = {True: 16 << 20, False: 256 << 20}
_WRITE_BYTES = 16 << 20
_LEAST_ARENA = 8 << 20
_BUSY = 0.1


def probe(path: Path | None = None, *, quick: bool = False, progress: Progress | None = None) -> Machine:
    """This machine as measured now, in under 20 s, or under 2 s when `quick`.

    `path` names the disk that matters: a file there that may be read, or a folder for a test file; the home otherwise.
    Raises UnsupportedPlatform without the compiled part or with too little memory to measure in.
    """
    place = home() if path is None else path
    here = _native_cpu()
    rates: tuple[Rate, ...] = ()
    notes: list[str] = []
    plan = _stages(quick)
    with _told(progress, plan["processor"]) as tell:
        rates += _cpu_rates(here, quick, plan["processor"][1], tell, notes)
    process = ProcessSize()  # runs while the disk is measured, which takes little of the processor
    with _told(progress, plan["disk"]) as tell:
        rates += _disk_rates(place, quick, plan["disk"][1], tell, notes)
    with _told(progress, plan["card"]) as tell:
        card, more = _card(plan["card"][1], tell, notes)
    rates += more
    if here.quota is not None and here.quota < len(here.affinity):
        notes.append(f"a control group limits this process to {here.quota:g} of {len(here.affinity)} cores")
    room = available()
    device = Device(here.model, "cpu", room.limit_bytes, here.cores, here.features)
    if progress is not None:
        progress(1.0, "done")
    return Machine(
        name=here.model,
        origin="quick" if quick else "measured",
        fingerprint=fingerprint(place),
        devices=(device,) if card is None else (device, card),
        rates=rates,
        process_bytes=process.num_bytes(),
        disk_free_bytes=free_bytes(place),
        direct_io=_direct(place),
        notes=tuple(notes),
    )


def _native_cpu() -> Cpu:
    """The CPU with the instruction set that the kernels chose among its features."""
    try:
        from pintpot import _native
    except ImportError as error:
        raise UnsupportedPlatform(f"the compiled part of Pintpot does not load ({error}); install it again") from error
    here = cpu()
    return Cpu(here.model, (f"path:{_native.kernels.chosen()}", *here.features), here.cores, here.affinity, here.quota)


def _stages(quick: bool) -> dict[str, tuple[tuple[float, float], float]]:
    """Share of the progress bar, and seconds, of each part."""
    seconds = {"processor": 0.7, "disk": 0.3, "card": 0.3} if quick else {"processor": 11.0, "disk": 4.0, "card": 3.0}
    shares = {"processor": (0.0, 0.7), "disk": (0.7, 0.95), "card": (0.95, 1.0)}
    return {name: (shares[name], seconds[name]) for name in shares}


@contextmanager
def _told(progress: Progress | None, stage: tuple[tuple[float, float], float]) -> Iterator[Progress | None]:
    """The progress of one part, as that of the whole."""
    (first, last), _ = stage
    if progress is None:
        yield None
    else:
        yield lambda share, what: progress(first + share * (last - first), what)


def _cpu_rates(here: Cpu, quick: bool, seconds: float, progress: Progress | None, notes: list[str]) -> tuple[Rate, ...]:
    size = min(_ARENA_BYTES[quick], available().num_bytes // 3)
    need(
        size >= _LEAST_ARENA, f"too little memory is free to measure in: {format_bytes(3 * size)}", UnsupportedPlatform
    )
    if size < _ARENA_BYTES[quick]:
        notes.append(f"measured in {format_bytes(size)} only, so caches may have helped")
    stand = bench(thread_counts(here.cores, quick), size, quick)
    loops = (*cpu_loops(stand), *packing_loops(stand.formats))
    with Watch() as watch:
        rates = measure(loops, seconds, sample_s=0.001 if quick else 0.004, progress=progress)
    if (watch.foreign_share or 0.0) > _BUSY:
        notes.append(f"other programs took {watch.foreign_share:.0%} of the processor while it was measured")
    del loops
    stand.arena.close()
    return rates


def _disk_rates(
    place: Path, quick: bool, seconds: float, progress: Progress | None, notes: list[str]
) -> tuple[Rate, ...]:
    try:
        with disk_file(place, _FILE_BYTES[quick]) as (path, size), write_loops(path.parent, _WRITE_BYTES) as writing:
            loops = (*disk_loops(path, size, quick), *writing)
            return measure(loops, seconds, least=2 if quick else 3, progress=progress)
    except (DiskTooSmall, OSError) as error:
        notes.append(f"the disk was not measured: {error}")
        return ()


def _card(seconds: float, progress: Progress | None, notes: list[str]) -> tuple[Device | None, tuple[Rate, ...]]:
    """The graphics card and its rates. One that is seen and cannot be used costs only itself."""
    try:
        card = cuda_device()
    except (ImportError, OSError, RuntimeError) as error:
        notes.append(f"the graphics card cannot be used: {str(error).partition(chr(10))[0]}")
        return None, ()
    if card is None:
        return None, ()
    return card, measure(tuple(cuda_loops(notes)), seconds, sample_s=0.01, progress=progress)


def _direct(place: Path) -> bool:
    folder = place.parent if place.is_file() else place
    try:
        return takes_direct_reads(folder)
    except OSError:
        return False
