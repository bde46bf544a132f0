"""Where learning has got to, on disk whole or not at all: what learns, its moments, every loss so far, and the plan.

What rests on disk anyway is not written again: the record names its version (`trainer.resting`).

The order of the examples follows from the seed and the step, and no other random number is drawn while learning; so a
start that was ended, however that was, goes on with the very losses it would have had. Whoever looks for a checkpoint
needs no PyTorch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.errors import BadFile, BadInput, UsageError, need
from pintpot.meter.disk import ask_room
from pintpot.packer.locks import alone
from pintpot.trainer.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from pintpot.trainer.learned import Learned

VERSION = 2
FOLDER, STATE, RESTS = "checkpoint", "state.json", "resting.bin"


@dataclass
class Progressed:
    """How far it is: steps taken, their losses, and (step, loss) each time what was held out was asked.

    Of pictures also (step, share of them that was told `right`).
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    asked: list[tuple[int, float]] = field(default_factory=list)
    right: list[tuple[int, float]] = field(default_factory=list)


class Checkpoints:
    """The checkpoint of one run in its folder. `question` is all that has to be the same for a start to go on.

    Each of `ranks` writes what it holds, and the first one the record, when all have.
    """

    def __init__(self, folder: Path, question: Mapping[str, Any], ranks: Ranks = ALONE) -> None:
        self._folder = folder / FOLDER
        self._question = dict(question)
        self._ranks = ranks

    @property
    def rests(self) -> Path:
        """The file in which what learns rests that is not in memory."""
        return self._folder / RESTS

    @property
    def inside(self) -> Path:
        """The file in which a process lays what ways back need aside."""
        return self._folder / self._own("inside.bin")

    def plan(self) -> dict[str, Any] | None:
        """The plan by which an earlier start learned, None where there was none.

        Raises UsageError for a run of something else, BadInput for a damaged record.
        """
        state = self._state()
        if state is None:
            return None
        other = [key for key, value in self._question.items() if state["question"].get(key) != value]
        need(
            not other,
            f"{self._folder.parent} holds a run with another {', '.join(other)}; name another folder, or remove it",
            UsageError,
        )
        return dict(state["plan"])

    def load(self, learned: Learned) -> Progressed:
        """Puts what was learned back, and says how far it is. Raises BadFile for a damaged file."""
        from pintpot.trainer.tensors import read_tensors

        state = self._state()
        if state is None:
            return Progressed()
        path = self._folder / self._name(int(state["step"]))
        try:
            read_tensors(path, learned.tensors())
            if learned.resting is not None:
                learned.resting.keep(int(state["version"]))
            asked, right = ([(int(step), float(one)) for step, one in state[key]] for key in ("asked", "right"))
            return Progressed(int(state["step"]), [float(one) for one in state["losses"]], asked, right)
        except (OSError, KeyError, ValueError, TypeError, BadInput) as error:
            raise BadFile(f"{path} is no checkpoint of this run ({error}); remove {self._folder}") from error

    def save(self, learned: Learned, done: Progressed, plan: Mapping[str, Any]) -> None:
        """A new checkpoint in the place of the old one, which stays until this one is whole.

        Raises DiskTooSmall before anything is written that would not fit.
        """
        import torch

        from pintpot.trainer.tensors import write_tensors

        self._folder.mkdir(parents=True, exist_ok=True)
        tensors, resting = learned.tensors(), learned.resting
        # All processes write at once, and about as much.
        ask_room(self._folder, self._ranks.count * sum(one.nbytes for one in tensors.values()))
        try:
            self._write(self._name(done.step), lambda path: write_tensors(path, tensors))
            version = None if resting is None else resting.flushed()
            self._ranks.total(torch.zeros(1))
            if self._ranks.number:
                return
            state = {
                "pintpot_checkpoint": VERSION, "question": self._question, "plan": dict(plan),
                "step": done.step, "losses": done.losses, "asked": done.asked, "right": done.right,
                "version": version,
            }  # fmt: skip
            self._write(STATE, lambda path: path.write_text(json.dumps(state), encoding="utf-8"))
            if resting is not None and version is not None:
                resting.keep(version)
            for path in self._folder.iterdir():
                if path.name not in (STATE, RESTS) and not path.name.startswith(f"step-{done.step}."):
                    path.unlink()
        except OSError as error:
            raise BadInput(f"the checkpoint of step {done.step} cannot be written: {error}") from error

    def _name(self, step: int) -> str:
        return self._own(f"step-{step}.safetensors")

    def _own(self, name: str) -> str:
        """The name of a file of which every process has one."""
        first, _, last = name.rpartition(".")
        return name if self._ranks.count == 1 else f"{first}.{self._ranks.number}-of-{self._ranks.count}.{last}"

    def clear(self) -> None:
        """Remove it: what was learned rests elsewhere."""
        if self._folder.exists():
            # Without its record nothing else here is a checkpoint.
            for path in sorted(self._folder.iterdir(), key=lambda path: path.name != STATE):
                path.unlink()
            self._folder.rmdir()

    def _write(self, name: str, fill: Any) -> None:
        aside = self._folder / f"{name}.new"
        try:
            fill(aside)
            flush(aside)
            os.replace(aside, self._folder / name)
        finally:
            aside.unlink(missing_ok=True)
        flush(self._folder)

    def _state(self) -> dict[str, Any] | None:
        path = self._folder / STATE
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BadFile(f"{path} cannot be read ({error}); remove {self._folder}") from error
        known = isinstance(state, dict) and state.get("pintpot_checkpoint") == VERSION and "plan" in state
        need(known, f"{path} is no checkpoint that this version reads; remove {self._folder}", BadFile)
        return dict(state)


@contextmanager
def held(folder: Path, ranks: Ranks = ALONE) -> Iterator[None]:
    """Nobody else learns into a folder meanwhile; it is made, and gone again where nothing came into it.

    Of several processes the first holds it. Raises InUse while somebody else does, BadInput where it cannot be made.
    """
    if ranks.number:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made: {error.strerror}") from error
    with alone(folder):
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()


def begun(folder: Path) -> bool:
    """Whether there is a checkpoint in the folder of a run."""
    return (folder / FOLDER / STATE).exists()


def kept_bytes(folder: Path) -> int:
    """What the checkpoint of a run takes on disk already."""
    at = folder / FOLDER
    return sum(path.stat().st_size for path in at.iterdir()) if at.exists() else 0


def flush(path: Path) -> None:
    """Wait until a file, or a folder's entries, rest on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
