"""`pintpot probe`: this machine, measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pintpot.cli.options import common, example
from pintpot.cli.terminal import VERBOSE, Terminal

if TYPE_CHECKING:
    from pintpot.machine.spec import Machine, Rate

# What a rate counts, by how its name begins; the first that fits.
_UNITS = (
    ("attend_", " multiply-adds/s"),
    ("read", "B/s"), ("copy", "B/s"), ("disk", "B/s"), ("disk_write", "B/s"), ("lookup", "B/s"),
    ("attend/", "B/s"),
    ("cuda/matmul/", " multiply-adds/s"), ("cuda/", "B/s"), ("matvec/", " weights/s"), ("matmul/", " multiply-adds/s"),
    ("int8_peak", " multiply-adds/s"), ("float_peak", " multiply-adds/s"), ("expand/", " values/s"),
)  # fmt: skip


@click.command(
    "probe",
    short_help="Measure this machine and remember it.",
    epilog=example("pintpot probe", "pintpot probe /data --quick    the disk that holds /data, in 2 s"),
)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="Two seconds instead of twenty, with wider spreads.")
@common
def probe_command(terminal: Terminal, path: Path | None, quick: bool) -> None:
    """Measure this machine and remember it: RAM, our own kernels, the disk that holds PATH, and a graphics card."""
    import pintpot

    with terminal.progress() as progress:
        machine = pintpot.probe(path, quick=quick, progress=progress)
    if terminal.as_json:
        terminal.data({"digest": machine.digest, **machine.to_json()})
        return
    from pintpot.cli.tables import pairs

    console = terminal.console()
    console.print(pairs(_facts(machine), title=machine.name))
    console.print(_rates_table(machine, everything=terminal.verbosity >= VERBOSE))
    for note in machine.notes:
        terminal.say(note)


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    from pintpot.units import format_bytes

    for device in machine.devices:
        features = ", ".join(device.features) or "no special instructions"
        yield device.kind, f"{device.name}: {format_bytes(device.memory_bytes)}, {device.threads} threads, {features}"
    direct = "direct reads work" if machine.direct_io else "no direct reads"
    yield "disk", f"{format_bytes(machine.disk_free_bytes)} free, {direct}"
    yield "empty process", f"{format_bytes(machine.process_bytes)} with the libraries that a run needs"
    yield "record", f"{machine.origin}, fingerprint {machine.fingerprint}, digest {machine.digest}"


def _rates_table(machine: Machine, everything: bool) -> object:
    from pintpot.cli.tables import table

    made = table("rate", "threads", "size", "low", "mid", "high", "unit", title="rates", right=(1, 2, 3, 4, 5))
    for rate in machine.rates if everything else _telling(machine):
        made.add_row(rate.what, str(rate.threads), _size(rate), *_speeds(rate))
    if not everything:
        made.caption = f"the fastest of each kind, of {len(machine.rates)} rates; -v shows all"
        made.caption_justify = "left"
    return made


def _telling(machine: Machine) -> list[Rate]:
    """One rate of each kind: the fastest, and of loops over weights in RAM the fastest that no cache helped."""
    kinds: dict[str, list[Rate]] = {}
    for rate in machine.rates:
        kinds.setdefault(rate.what, []).append(rate)
    return [max(found, key=_rank) for found in kinds.values()]


def _rank(rate: Rate) -> tuple[int, float]:
    in_ram = rate.what in ("read", "copy") or rate.what.startswith("matvec/")
    return rate.size if in_ram else 0, rate.mid


def _speeds(rate: Rate) -> tuple[str, str, str, str]:
    """Low, mid and high in the unit of the middle, and that unit."""
    if rate.what in ("barrier", "call", "turn"):
        low, mid, high = (f"{1e6 / value:.3g}" if value else "-" for value in (rate.low, rate.mid, rate.high))
        return low, mid, high, "µs each"
    unit = next((unit for begin, unit in _UNITS if rate.what.startswith(begin)), "/s")
    prefix, factor = next(((p, f) for p, f in (("T", 1e12), ("G", 1e9), ("M", 1e6)) if rate.mid >= f), ("", 1.0))
    low, mid, high = (f"{value / factor:.3g}" for value in (rate.low, rate.mid, rate.high))
    return low, mid, high, prefix + unit


def _size(rate: Rate) -> str:
    from pintpot.units import format_bytes

    if not rate.size:
        return ""
    in_rows = rate.what.startswith(("matmul/", "attend_", "cuda/matmul/"))
    return f"{rate.size:,} rows" if in_rows else format_bytes(rate.size)
