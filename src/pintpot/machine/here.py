"""This machine: what is remembered of it, or a quick probe where it was never measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pintpot.machine.features import fingerprint
from pintpot.machine.remember import load, remember
from pintpot.machine.spec import Machine
from pintpot.meter.home import home

Progress = Callable[[float, str], None]


def this_machine(path: Path | None = None, progress: Progress | None = None) -> Machine:
    """What is known of this machine with the disk of `path` (of PINTPOT_HOME where it is None)."""
    place = path or home()
    known = load(fingerprint(place))
    if known is not None:
        return known
    from pintpot.machine.probe import probe

    return remember(probe(place, quick=True, progress=progress))
