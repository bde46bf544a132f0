"""Work that waits on disk for a start that goes on with it: calibrations beside their packs, tables on their way.

Whoever works in such a folder holds its lock. One that nobody holds is gone on with by the same question, goes with its
pack, or is removed by its name.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pintpot.errors import BadPack, InUse
from pintpot.machine.doctor import Finding
from pintpot.meter.home import home
from pintpot.packer.draft import remove_free
from pintpot.packer.locks import alone
from pintpot.packer.raw import KEPT
from pintpot.units import format_bytes

_CALIBRATION = re.compile(r"\.(.+)\.pintpot-calibrated-[0-9a-f]{16}")
_TABLES = "sensitivities"
WAITS_S = 7 * 86_400
"""A calibration that nobody went on with for so long goes when another begins beside it."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A folder under PINTPOT_HOME, the name by which it is removed, and whether a process works in it."""

    folder: Path
    name: str
    what: str
    num_bytes: int
    in_use: bool


def place_of_calibration(folder: Path, key: str) -> Path:
    """Where the calibration of this key (16 hex digits) waits for the pack in `folder`."""
    return folder.with_name(f".{folder.name}.pintpot-calibrated-{key}")


def remove_others(place: Path) -> None:
    """Remove calibrations beside this one that are for its pack too, or too old, unless a process works in them."""
    pack = _pack_of(place)
    for path in place.parent.iterdir():
        if path != place and _is_calibration(path) and (_pack_of(path) == pack or _is_old(path)):
            remove_free(path)


def unfinished() -> tuple[Unfinished, ...]:
    """All that waits under PINTPOT_HOME; a calibration has the name of its pack."""
    packs, tables = home() / KEPT, home() / _TABLES
    found = [(path, _pack_of(path), "calibration of a pack") for path in _folders(packs) if _is_calibration(path)]
    found += [(path, path.name, "table of a model") for path in _folders(tables) if path.suffix == ".begun"]
    waiting = []
    for path, name, what in found:
        with suppress(BadPack):  # it is gone by now
            waiting.append(Unfinished(path, name, what, _num_bytes(path), _is_held(path)))
    return tuple(waiting)


def kept_finding() -> Finding:
    """What is kept under PINTPOT_HOME, by the folder that it is in, and what of it is unfinished."""
    waiting = sum(one.num_bytes for one in unfinished())
    sizes = {path.name: _num_bytes(path) for path in _folders(home())}
    told = ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items() if size)
    if not waiting:
        return Finding("kept", True, told or "nothing yet")
    advice = "`pintpot list` names what is unfinished; the same command goes on with it, `pintpot rm NAME` removes it"
    return Finding("kept", None, f"{told}; {format_bytes(waiting)} of it unfinished", advice)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _is_calibration(path: Path) -> bool:
    return _CALIBRATION.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _pack_of(place: Path) -> str:
    """The name of the pack that a calibration is for."""
    return _CALIBRATION.sub(r"\1", place.name)


def _is_old(path: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > WAITS_S
    return False


def _is_held(path: Path) -> bool:
    try:
        with alone(path):
            return False
    except InUse:
        return True


def _num_bytes(folder: Path) -> int:
    """Bytes of all files inside; others may come and go meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_size if path.is_file() else 0
    return total
