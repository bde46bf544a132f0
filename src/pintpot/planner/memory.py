"""What `prove` measured, kept by model in `<home>/measured`, so that the next plan is nearer to the truth.

A record belongs to the weights that were packed: every training of a network has its own. A file is read and replaced
whole under a lock of its own, so that two processes on one home lose nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput, need
from pintpot.machine.process import program_mark
from pintpot.meter.home import home
from pintpot.meter.records import locked, write_record
from pintpot.planner.degradation import rounding_key, steps_key
from pintpot.planner.names import LOADER, PROCESS, TOKENIZER, TORCH
from pintpot.planner.plan import NATS, Degradation, Plan

VERSION = 1
KEPT = 24
"""Measurements of one thing that are kept; older ones fall out."""
HOLDERS = (PROCESS, TOKENIZER, TORCH, LOADER)
"""Holders that are estimated; the others are computed exactly."""


@dataclass(frozen=True)
class Recalled:
    """What is known of a model: degradation by the key of the steps, bytes by holder.

    `proved` is what degradations were found to be over what the table of its weights had said, by how was rounded.
    `guesses` are shares of runs: of guessed words that were right, and of steps that had any.
    """

    degradation: Mapping[str, Degradation] = field(default_factory=dict)
    holders: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    proved: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    guesses: tuple[tuple[float, float], ...] = ()


def remember(
    key: str,
    fingerprint: str,
    plan: Plan,
    *,
    degradation: Degradation | None = None,
    holders: Mapping[str, int] | None = None,
    proved: tuple[float, float] | None = None,
    guesses: tuple[float, float] | None = None,
    folder: Path | None = None,
) -> None:
    """Keep what was measured of a plan on the machine of this fingerprint, under the `table_key` of its model.

    What is None was not measured; `guesses` are as in `Recalled`. `proved` is what the degradation of its formats was
    found to be over the middle of what a table had said, low..high. Quality belongs to the weights and steps, whatever
    the machine, and what was measured on more words stays; bytes belong to the machine and to the program as it is
    installed, too.
    Raises BadInput where the home cannot be written or holds a file that is none of ours.
    """
    steps = steps_key(plan.steps)
    with locked(_path(key, folder)) as path:
        data = _read(path)
        if degradation is not None and degradation.num_tokens >= _num_tokens(data["degradation"].get(steps)):
            data["degradation"][steps] = _record(degradation)
        if proved is not None:
            seen = data.setdefault("proved", {})
            rounding = rounding_key(plan.steps)
            seen[rounding] = [*seen.get(rounding, []), list(proved)][-KEPT:]
        if guesses is not None:
            data["guesses"] = [*data.get("guesses", []), list(guesses)][-KEPT:]
        here = data["machines"].setdefault(_here(fingerprint), {"holders": {}})
        for name, num_bytes in (holders or {}).items():
            if name in HOLDERS:
                _append(here["holders"], name, num_bytes)
        write_record(path, data)


def recall(key: str, fingerprint: str, *, folder: Path | None = None) -> Recalled:
    """Everything known of a model, by its `table_key`, on a machine; nothing where nothing was measured.

    Raises BadInput for a bad file.
    """
    if not key:
        return Recalled()
    path = _path(key, folder)
    data = _read(path)
    try:
        here = data["machines"].get(_here(fingerprint), {"holders": {}})
        return Recalled(
            {key: _degradation(*spans) for key, spans in data["degradation"].items()},
            {name: (min(seen), max(seen)) for name, seen in here["holders"].items()},
            {key: _outer(spans) for key, spans in data.get("proved", {}).items()},
            tuple((float(right), float(covered)) for right, covered in data.get("guesses", [])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is not a record of measurements ({error!r}); remove it") from error


def _here(fingerprint: str) -> str:
    """A machine with this program: another version loads other libraries and has other kernels."""
    return f"{fingerprint} {program_mark()}"


def _record(found: Degradation) -> list[float | str | None]:
    spans = [found.low, found.high, found.prefill_low, found.prefill_high]
    return [*spans, found.mean, found.num_tokens, *(() if found.unit == NATS else (found.unit,))]


def _num_tokens(record: list[float] | None) -> float:
    return record[5] if record is not None and len(record) > 5 else 0


def _degradation(low: float, high: float, *found: float | str | None) -> Degradation:
    """Records of two numbers are from when prompts and answers were computed in the same way, of four without words.

    A seventh entry is the unit, where it is not nats.
    """
    more = [one for one in found if not isinstance(one, str)]
    unit = next((one for one in found if isinstance(one, str)), NATS)
    prefill_low, prefill_high = more[:2] or (low, high)
    mean, num_tokens = more[2:4] or (None, 0)
    prefill = (float(prefill_low or 0.0), float(prefill_high or 0.0))
    known = None if mean is None else float(mean)
    return Degradation(float(low), float(high), True, *prefill, known, int(num_tokens or 0), unit=unit)


def _outer(spans: list[list[float]]) -> tuple[float, float]:
    return min(float(low) for low, _ in spans), max(float(high) for _, high in spans)


def _append(table: dict[str, list[float]], name: str, value: float) -> None:
    table[name] = [*table.get(name, []), value][-KEPT:]


def _path(key: str, folder: Path | None) -> Path:
    need(key.isalnum(), f"{key!r} is no key of a model")
    return (home() if folder is None else folder) / "measured" / f"{key}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return {"version": VERSION, "degradation": {}, "machines": {}}
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not a record of measurements ({error}); remove it") from error
    whole = isinstance(data, dict) and isinstance(data.get("degradation"), dict)
    whole = whole and isinstance(data.get("machines"), dict)
    need(whole, f"{path} is not a record of measurements; remove it")
    version = data.get("version")
    need(version == VERSION, f"{path} has version {version!r}, this program reads {VERSION}; remove it")
    return dict(data)
