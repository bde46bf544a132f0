"""Kills of a run that learns, for tests and benchmarks: SIGKILL at drawn moments, then the same command again.

    killed = kill(command, folder, Moment("writing", 0.01))      # None where the run had ended before

Moments: "starting" counts seconds from the start of the process, "learning" from its first new checkpoint on, "writing"
waits for a file that is not whole yet, and "ending" for the first of the files that it leaves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pintpot.trainer.checkpoint import FOLDER, STATE
from pintpot.trainer.tune import RECEIPT

KINDS = ("learning", "writing", "starting", "learning", "writing", "ending")
STARTING_S, LEARNING_S, WRITING_S = 4.0, 0.4, 0.3
LOOK_S = 0.0002


@dataclass(frozen=True)
class Moment:
    """When a run is killed: `after_s` from what its kind says."""

    kind: str
    after_s: float


@dataclass(frozen=True)
class Killed:
    """What was found when it was dead: the step of its checkpoint, and files that were not whole."""

    step: int
    torn: tuple[str, ...]


def moments(count: int, seed: int = 0) -> list[Moment]:
    """So many, of all kinds in turn, drawn from a seed."""
    draw, longest = Random(seed), {"starting": STARTING_S, "learning": LEARNING_S, "writing": WRITING_S}
    kinds = [KINDS[index % len(KINDS)] for index in range(count)]
    return [Moment(kind, draw.uniform(0, longest.get(kind, 0.0))) for kind in kinds]


def step_of(folder: Path) -> int:
    """How far the checkpoint is, -1 without one."""
    try:
        return int(json.loads((folder / FOLDER / STATE).read_text())["step"])
    except FileNotFoundError:
        return -1


def kill(command: Sequence[str], folder: Path, moment: Moment) -> Killed | None:
    """Start it, kill it then, and look; None where it ended by itself, well. Raises AssertionError where it failed."""
    begun = step_of(folder)
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        started = time.monotonic()
        since = started if moment.kind == "starting" else 0.0
        while process.poll() is None:
            if not since and (moment.kind == "ending" or step_of(folder) > begun):
                since = time.monotonic()
            late = bool(since) and time.monotonic() - since >= moment.after_s
            if late and _here(folder, moment.kind):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(LOOK_S)
        errors = process.stderr.read().decode() if process.stderr else ""
    assert process.returncode in (0, -signal.SIGKILL), errors
    torn = tuple(sorted(one.name for one in _entries(folder) if one.name.endswith(".new")))
    return Killed(step_of(folder), torn) if process.returncode else None


def _here(folder: Path, kind: str) -> bool:
    """Whether what a moment waits for is there."""
    if kind == "writing":
        return any(one.name.endswith(".new") for one in _entries(folder))
    if kind == "ending":
        return any(one.is_file() for one in _entries(folder, inside=False))
    return True


def _entries(folder: Path, inside: bool = True) -> list[os.DirEntry[str]]:
    """Files of a run, and those of its checkpoint."""
    found: list[os.DirEntry[str]] = []
    for place in (folder, *([folder / FOLDER] if inside else [])):
        try:
            found += os.scandir(place)
        except FileNotFoundError:
            continue
    return found


def learned_files(folder: Path) -> dict[str, bytes]:
    """What a run left behind but its receipt and report, which hold seconds: bytes by name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.stem != Path(RECEIPT).stem)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def told(folder: Path) -> dict[str, object]:
    """What its receipt says of what was learned."""
    receipt = json.loads((folder / RECEIPT).read_text())
    return {key: receipt[key] for key in ("losses", "asked")}
