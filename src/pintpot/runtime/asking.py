"""Asking a module as people do: files and texts become batches by its kind, and what it gives becomes answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pintpot.errors import UsageError
from pintpot.runtime.kinds import Answer, Arrays, Batch, Given, Runs, check_given, kept

if TYPE_CHECKING:
    from pintpot.runtime.module import ModuleSession


def read(config: Mapping[str, Any], folder: Path, given: Given, name: str) -> Iterator[Batch]:
    """What was given as inputs of the recording `config`; `folder` is the pack's, or the recording's own.

    Raises UsageError for a module that takes tensors alone, or something else; BadInput for files that cannot be read.
    """
    found = kept(config)
    if found is None:
        raise UsageError(f"{name} is a module and takes tensors: call the session of pintpot.run in Python")
    kind, about = found
    check_given(kind, given, name)
    return kind.read(about, folder, given)


def answers(session: ModuleSession, batches: Iterable[Batch], running: Runs | None = None) -> Iterator[Answer]:
    """One answer after the other, in the order of what was given; `running` counts the seconds.

    A batch is computed when its first answer is asked for, and before it those that come first and hold later ones.

    Raises UsageError for a module that takes tensors alone.
    """
    found = kept(session.plan.config)
    if found is None:
        raise UsageError("this module takes tensors alone")
    kind, about = found
    early = dict[int, Answer]()
    due = 0
    for batch in batches:
        outputs = kind.compute(about, running or Running(session), batch)
        first = due + len(early)
        for at, answer in enumerate(kind.answers(about, session.folder, batch, outputs)):
            early[batch.places[at] if batch.places else first + at] = answer
            while due in early:
                yield early.pop(due)
                due += 1


class Running:
    """A session that takes and gives arrays, as kinds want it (`pintpot.runtime.kinds.Runs`)."""

    def __init__(self, session: ModuleSession) -> None:
        self._session, self.seconds = session, 0.0

    def __call__(self, inputs: Arrays, stage: str = "") -> Arrays:
        import torch

        called = self._session.stage(stage) if stage else self._session
        given = called(**{name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in inputs.items()})
        self.seconds += called.seconds
        return dict(_flat(given, ""))

    def reset(self) -> None:
        self._session.reset()


def _flat(tree: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        items: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, tuple):
        items = enumerate(tree)
    else:
        if tree is not None and not isinstance(tree, bool | int | float | str):
            yield at or "answer", tree.numpy()
        return
    for key, one in items:
        yield from _flat(one, f"{at}.{key}" if at else str(key))
