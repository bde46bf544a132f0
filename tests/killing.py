"""Kills of a run that learns, for tests and benchmarks: SIGKILL at drawn moments, then the same command again.

    killed = kill(lambda: started(command), folder, Moment("writing", 0.01))      # None where the run had ended before

Moments: "starting" counts seconds from the start of the process, "learning" from a checkpoint on, a drawn share of the
steps that are left, "writing" waits there for a file that is not whole yet, and "ending" for the first of the files
that it leaves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from pintpot.trainer.checkpoint import FOLDER, STATE
from pintpot.trainer.receipt import RECEIPT

KINDS = ("learning", "writing", "starting", "learning", "writing", "ending")
STARTING_S, LEARNING_S, WRITING_S = 4.0, 0.2, 0.1
LOOK_S, ENDING_S = 0.0005, 120.0


@dataclass(frozen=True)
class Moment:
    """When a run is killed: `after_s` from what its kind says, `share` of the steps later that it had before it."""

    kind: str
    after_s: float
    share: float = 0.0


@dataclass(frozen=True)
class Killed:
    """What was found when it was dead: the step of its checkpoint, and files that were not whole."""

    step: int
    torn: tuple[str, ...]


class Run(Protocol):
    """A process that learns, as `subprocess.Popen` is one."""

    def poll(self) -> int | None:
        """How it ended, None while it lives."""

    def wait(self) -> int:
        """How it ended, once it has."""

    def kill(self) -> None:
        """SIGKILL, where it lives still."""


def started(command: Sequence[str]) -> Run:
    """A process of its own, of which only the errors are seen."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


class Starter(Protocol):
    """`torchrun`, or what does as it does."""

    pid: int

    def poll(self) -> int | None:
        """How it ended, None while it lives."""

    def wait(self) -> int:
        """How it ended, once it has."""


class Together:
    """Processes that a starter started; killed are all, "one" of those that learn, or the "starter" alone."""

    def __init__(self, begun: Starter, whom: str = "all") -> None:
        self._begun, self._whom = begun, whom
        self._killed: list[int] = []

    def poll(self) -> int | None:
        """How the starter ended, None while it lives."""
        return self._begun.poll()

    def wait(self) -> int:
        """How it ended, once all have: that of a kill is told wherever somebody was killed."""
        code = self._begun.wait()
        until = time.monotonic() + ENDING_S
        while any(_lives(pid) for pid in self._killed):
            assert time.monotonic() < until, f"of {self._killed} some live on behind their starter"
            time.sleep(LOOK_S)
        return -signal.SIGKILL if self._killed and code else code

    def kill(self) -> None:
        """SIGKILL, to those who are meant."""
        starter, learning = self._begun.pid, _started_by(self._begun.pid)
        self._killed = [starter, *learning]
        meant = {"all": self._killed, "one": learning[-1:] or [starter], "starter": [starter]}[self._whom]
        for pid in meant:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _started_by(pid: int) -> list[int]:
    """The processes that one has started, and those that they have."""
    words: list[str] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        words = [
            word for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
        ]
    return [one for word in words for one in (int(word), *_started_by(int(word)))]


def _lives(pid: int) -> bool:
    """Whether it has not ended; one that nobody has asked about yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def moments(count: int, seed: int = 0) -> list[Moment]:
    """So many, of all kinds in turn, drawn from a seed over the whole of a run."""
    draw, longest = Random(seed), {"starting": STARTING_S, "learning": LEARNING_S, "writing": WRITING_S}
    kinds = [KINDS[index % len(KINDS)] for index in range(count)]
    return [Moment(kind, draw.uniform(0, longest.get(kind, 0.0)), draw.random()) for kind in kinds]


def step_of(folder: Path) -> int:
    """How far the checkpoint is, -1 without one."""
    try:
        return int(json.loads((folder / FOLDER / STATE).read_text())["step"])
    except FileNotFoundError:
        return -1


def kill(start: Callable[[], Run], folder: Path, moment: Moment, steps: int = 0) -> Killed | None:
    """Start it, kill it then, and look; None where it ended by itself, well. Raises AssertionError where it failed.

    Of `steps` in all those are left that the folder's checkpoint does not have.
    """
    begun = max(0, step_of(folder))
    due = begun + max(1, round(moment.share * (steps - begun)))
    run, since = start(), 0.0
    if moment.kind == "starting":
        since = time.monotonic()
    while run.poll() is None:
        if not since and (moment.kind == "ending" or step_of(folder) >= due):
            since = time.monotonic()
        late = bool(since) and time.monotonic() - since >= moment.after_s
        if late and _here(folder, moment.kind):
            run.kill()
            break
        time.sleep(LOOK_S)
    code = run.wait()
    assert code in (0, -signal.SIGKILL), f"it ended with {code}"
    torn = tuple(sorted(one.name for one in _entries(folder) if one.name.endswith(".new")))
    return Killed(step_of(folder), torn) if code else None


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
