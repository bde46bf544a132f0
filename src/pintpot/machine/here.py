"""This machine: what is remembered of it, or a quick probe where it was never measured.

`python -m pintpot.machine.here PLACE` takes that probe elsewhere: the arrays that it reads would count as ours.
"""

from __future__ import annotations

import subprocess
import sys
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
    if known is None:
        if progress is not None:
            progress(0.0, "a quick probe of this machine")
        subprocess.run(
            [sys.executable, "-m", "pintpot.machine.here", str(place)], check=False, stdin=subprocess.DEVNULL
        )
        known = load(fingerprint(place))
    return known if known is not None else _probe(place)


def _probe(place: Path) -> Machine:
    from pintpot.machine.probe import probe

    return remember(probe(place, quick=True))


if __name__ == "__main__":
    _probe(Path(sys.argv[1]))
