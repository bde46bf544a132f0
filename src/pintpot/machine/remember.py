"""Machine records, kept by fingerprint in `<home>/machines`: probes and runs add up to one record with its true spread.

A file is read and replaced whole under a lock of its own, so that two processes on one home lose nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput, need
from pintpot.machine.process import program_mark
from pintpot.machine.spec import Machine, Rate
from pintpot.meter.clock import median
from pintpot.meter.home import home
from pintpot.meter.records import locked, write_record

_log = logging.getLogger(__name__)
_VERSION = 4
_KEPT = 12
"""Records of one rate that are kept; older ones fall out, so that a changed machine is believed in the end."""
_RARE = 8
"""Of so many records, the one at either end is too rare to be promised."""
_PROGRAMS = 4
"""Programs whose size is kept: several installations may share one home."""


def load(fingerprint: str, folder: Path | None = None) -> Machine | None:
    """The record of this machine, merged from all its probes and runs; None where it was never probed.

    Raises BadInput for a record that cannot be read.
    """
    data = _read(_path(fingerprint, folder))
    return None if data is None else _merged(data)


def remember(machine: Machine, folder: Path | None = None) -> Machine:
    """Adds a probe to the machine's history and returns the merged record."""
    with locked(_path(machine.fingerprint, folder)) as path:
        data = _read(path)
        latest = machine.to_json()
        rates = latest.pop("rates")
        if data is None:
            data = {"version": _VERSION, "history": []}
        elif data["machine"]["origin"] == "measured" and machine.origin == "quick":
            latest = data["machine"]
        data["machine"] = latest
        _add(data, rates)
        _add_process(data, machine.process_bytes)
        write_record(path, data)
    return _merged(data)


def record_run(fingerprint: str, rates: Iterable[Rate], folder: Path | None = None) -> Machine:
    """Adds rates that were measured while a plan ran. Raises BadInput where the machine was never probed."""
    with _changing(fingerprint, folder) as data:
        _add(data, [asdict(rate) for rate in rates])
    return _merged(data)


def knows_program(fingerprint: str, folder: Path | None = None) -> bool:
    """Whether the record's `process_bytes` were measured with the program that runs now, as it is installed."""
    data = _read(_path(fingerprint, folder))
    return data is not None and program_mark() in _processes(data)


def record_process(fingerprint: str, num_bytes: int, folder: Path | None = None) -> Machine:
    """Puts what a process of this program weighs into the record. Raises BadInput as `record_run` does."""
    with _changing(fingerprint, folder) as data:
        _add_process(data, num_bytes)
    return _merged(data)


def forget(fingerprint: str, folder: Path | None = None) -> bool:
    """Removes the record; False where there was none."""
    with locked(_path(fingerprint, folder)) as path:
        existed = path.exists()
        path.unlink(missing_ok=True)
    return existed


@contextmanager
def _changing(fingerprint: str, folder: Path | None) -> Iterator[dict[str, Any]]:
    """A record to change, written at the end."""
    with locked(_path(fingerprint, folder)) as path:
        data = _read(path)
        if data is None:
            raise BadInput(f"no machine record {fingerprint} to add to; probe first")
        yield data
        write_record(path, data)


def _path(fingerprint: str, folder: Path | None) -> Path:
    need(fingerprint.isalnum(), f"{fingerprint!r} is no fingerprint")
    return (home() if folder is None else folder) / "machines" / f"{fingerprint}.json"


def _key(rate: dict[str, Any]) -> tuple[str, int, int]:
    return rate["what"], rate["threads"], rate["size"]


def _add(data: dict[str, Any], rates: list[dict[str, Any]]) -> None:
    """Appends to the history and keeps the newest `_KEPT` of each rate, in a fixed order of rates."""
    rows: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for rate in [*data["history"], *rates]:
        rows.setdefault(_key(rate), []).append(rate)
    data["history"] = [rate for found in rows.values() for rate in found[-_KEPT:]]


def _add_process(data: dict[str, Any], num_bytes: int) -> None:
    mark = program_mark()
    others = {key: value for key, value in _processes(data).items() if key != mark}
    data["processes"] = [*others.items(), (mark, num_bytes)][-_PROGRAMS:]


def _processes(data: dict[str, Any]) -> dict[str, int]:
    """Sizes of processes by the program's mark, oldest first; a record of an earlier version has none."""
    try:
        found = {str(mark): int(size) for mark, size in data.get("processes", ())}
    except (TypeError, ValueError) as error:
        raise BadInput(f"not a machine record: {error}") from error
    need(all(size > 0 for size in found.values()), "not a machine record: a process of no size")
    return found


def _merged(data: dict[str, Any]) -> Machine:
    """Every rate from the least to the most that records saw, without the rarest; its middle the median of theirs."""
    rows: dict[tuple[str, int, int], list[Rate]] = {}
    try:
        for entry in data["history"]:
            rows.setdefault(_key(entry), []).append(Rate(**entry))
    except (KeyError, TypeError) as error:
        raise BadInput(f"not a machine record: {error}") from error
    rates = tuple(
        replace(
            found[0],
            low=sorted(rate.low for rate in found)[len(found) // _RARE],
            mid=median([rate.mid for rate in found]),
            high=sorted((rate.high for rate in found), reverse=True)[len(found) // _RARE],
        )
        for found in rows.values()
    )
    machine = Machine.from_json({**data["machine"], "rates": []})
    return replace(machine, rates=rates, process_bytes=_processes(data).get(program_mark(), machine.process_bytes))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except OSError as error:
        why = f"{path} cannot be read ({error.strerror}); make it readable, or set PINTPOT_HOME to another folder"
        raise BadInput(why) from error
    except ValueError as error:
        raise BadInput(f"{path} is not a machine record ({error}); remove it and probe again") from error
    whole = isinstance(data, dict) and isinstance(data.get("machine"), dict) and isinstance(data.get("history"), list)
    need(whole, f"{path} is not a machine record; remove it and probe again")
    version = data.get("version")
    if isinstance(version, int) and version < _VERSION:
        _log.info("%s was measured by an earlier release, in another way; it is measured anew", path)
        return None
    need(
        version == _VERSION,
        f"{path} has version {version!r}, which is newer than this program; remove it and probe again",
    )
    return dict(data)
