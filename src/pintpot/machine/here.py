"""This machine: what is remembered of it, or a quick probe where it was never measured.

`python -m pintpot.machine.here PLACE` takes that probe elsewhere: the arrays that it reads would count as ours.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pintpot.errors import BadInput, Interrupted, PintpotError, error_named
from pintpot.machine.features import fingerprint
from pintpot.machine.process import process_bytes
from pintpot.machine.remember import knows_program, load, record_process, remember
from pintpot.machine.spec import Machine
from pintpot.meter.home import home
from pintpot.units import format_bytes

Progress = Callable[[float, str], None]
_log = logging.getLogger(__name__)


def this_machine(path: Path | None = None, progress: Progress | None = None) -> Machine:
    """What is known of this machine with the disk of `path` (of PINTPOT_HOME where it is None).

    Where the program was installed anew since the probe, what its process weighs is measured again. Raises BadInput
    where a first probe cannot be kept.
    """
    place = path or home()
    known = load(fingerprint(place))
    if known is None:
        if progress is not None:
            progress(0.0, "a quick probe of this machine")
        _probe_apart(place)
        known = load(fingerprint(place))
    if known is None:
        return _probe(place)
    return known if knows_program(known.fingerprint) else _weighed(known, progress)


def _weighed(known: Machine, progress: Progress | None) -> Machine:
    """The record with the size of a process as the program is now, kept where the home can be written."""
    if progress is not None:
        progress(0.0, "weighing an empty process")
    num_bytes, before = process_bytes(), known.process_bytes
    _log.info(
        "this program is not the one that this machine was measured with: an empty process takes %s now, it took %s",
        format_bytes(num_bytes),
        format_bytes(before),
    )
    try:
        return record_process(known.fingerprint, num_bytes)
    except BadInput as error:
        _log.info("%s", error)
        return replace(known, process_bytes=num_bytes)


def _probe_apart(place: Path) -> None:
    """A probe in a process of its own. Raises the error of ours that it ended with."""
    command = [sys.executable, "-m", "pintpot.machine.here", str(place)]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    kind, _, why = done.stdout.partition(": ")
    if why:
        raise error_named(kind)(why)


def _probe(place: Path) -> Machine:
    from pintpot.machine.probe import probe

    return remember(probe(place, quick=True))


if __name__ == "__main__":
    try:
        _probe(Path(sys.argv[1]))
    except PintpotError as error:  # for whoever asked for this, who tells it once
        sys.stdout.write(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:  # of a terminal, and then whoever asked for this has it too
        sys.exit(Interrupted.exit_code)
