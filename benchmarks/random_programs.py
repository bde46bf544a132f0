"""Draw random programs and run each in every way that this machine has, for as long as one likes.

    python benchmarks/random_programs.py [--seed 0] [--cases 2000 | --minutes 30]

Each seed is a small program of random ops, shapes, formats and places. Every op is held against the reference in
float64, and other instruction sets, numbers of threads and places must give the same bits. Exit code 1 when a seed
shows a disagreement; it is said with the least program that shows one. While it runs, `out/random_programs.seed` holds
the seed under way, for the case that a program ends the process.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import OUT, Record, whisper
from comparing import ISAS, outcome
from drawing import draw
from judging import Disagreement

_TICK_SECONDS, _MOST_TICKS = 5, 24
"""Of one case; a replay that waits for ever ends as an error. Ticks are not counted while the process is stopped."""
_MOST_FAILURES = 10


class _Watch:
    """Raises RuntimeError, out of the main thread, in a case that takes too long."""

    def __init__(self) -> None:
        self._ticks = 0
        signal.signal(signal.SIGALRM, self._tick)

    def __enter__(self) -> None:
        self._ticks = 0
        signal.setitimer(signal.ITIMER_REAL, _TICK_SECONDS, _TICK_SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _tick(self, *_: object) -> None:
        self._ticks += 1
        if self._ticks % _MOST_TICKS == 0:
            raise RuntimeError(f"a case took more than {_TICK_SECONDS * _MOST_TICKS} s")


class _Progress:
    """Where a run is, every few seconds, for whoever waits."""

    def __init__(self, cases: int, seconds: float) -> None:
        self._cases, self._seconds, self._began, self._said = cases, seconds, time.monotonic(), time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def over(self, done: int) -> bool:
        return done >= self._cases or self.elapsed >= self._seconds

    def say(self, done: int, failures: int) -> None:
        if time.monotonic() - self._said < 5:
            return
        self._said = time.monotonic()
        left = min(self._seconds - self.elapsed, self.elapsed * (self._cases / max(done, 1) - 1))
        whisper(f"{done} cases, {failures} disagreements, {left:.0f} s to go")


def _run(record: Record, first: int, progress: _Progress) -> int:
    kinds, results, failed, done, watch = Counter[str](), hashlib.sha256(), 0, 0, _Watch()
    with tempfile.TemporaryDirectory() as place:
        while not progress.over(done) and failed < _MOST_FAILURES:
            seed = first + done
            (OUT / "random_programs.seed").write_text(f"{seed}\n")
            try:
                with watch:
                    said = f"{seed} {outcome(seed, Path(place))}"
            except Disagreement as error:
                failed, said = failed + 1, str(error)
                record.say(said)
            else:
                record.say(said, quiet=True)
            results.update(said.encode())
            kinds.update(step.op.kind for step in draw(seed).steps)
            done += 1
            progress.say(done, failed)
    record.say(f"ops drawn: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}")
    record.say(f"digest of all results {results.hexdigest()[:16]}")
    found = f"{failed} disagreements in {done} cases from seed {first}"
    record.verdict(f"random programs on {', '.join(ISAS)}", found, "0", failed == 0)
    return record.finish()


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--cases", type=int)
    limit.add_argument("--minutes", type=float)
    options = parser.parse_args()
    faulthandler.enable()
    cases = options.cases or (2000 if options.minutes is None else 10**9)
    progress = _Progress(cases, 60 * options.minutes if options.minutes is not None else float("inf"))
    return _run(Record("random_programs", fresh=True), options.seed, progress)


if __name__ == "__main__":
    sys.exit(main())
