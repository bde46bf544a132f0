"""Describe damaged GGUF and safetensors files, as many as asked for, and print a digest of all outcomes.

    python benchmarks/fuzz_readers.py --cases 100000 [--first 0]

Every case gives an error of ours or a valid description; anything else stops the run with the seed that shows it. The
address space is limited, so that an allocation that a file's size does not excuse ends as an error, too.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fuzz import Original, damaged, originals, outcome

_SPARE_BYTES = 256 * 2**20
_MAX_SECONDS = 10


def _limit_memory() -> None:
    """Let the address space grow by 256 MiB at most: hundreds of times the largest file."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + _SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _run(sound: list[Original], first: int, num_cases: int) -> int:
    log, kinds = hashlib.sha256(), Counter[str]()
    began = said = time.monotonic()
    slowest = 0.0
    for seed in range(first, first + num_cases):
        original = sound[seed // 2 % len(sound)]
        data = damaged(original, seed)
        signal.alarm(_MAX_SECONDS)
        start = time.perf_counter()
        try:
            result = outcome(original, data)
        except BaseException:
            print(f"\nseed {seed} ({original.kind}) breaks the reader", file=sys.stderr)
            raise
        slowest = max(slowest, time.perf_counter() - start)
        log.update(f"{seed} {result}\n".encode())
        kinds[f"{original.kind}: {result.split()[0].rstrip(':')}"] += 1
        if time.monotonic() - said > 5:
            said = time.monotonic()
            done = seed + 1 - first
            left = (said - began) * (num_cases / done - 1)
            print(f"{done} of {num_cases} cases, {left:.0f} s to go", file=sys.stderr)
    signal.alarm(0)
    for kind, count in sorted(kinds.items()):
        print(f"{kind:32} {count:8}")
    seconds = time.monotonic() - began
    print(
        f"{num_cases} cases from seed {first} in {seconds:.0f} s, the slowest {slowest * 1e3:.1f} ms: no reader broke"
    )
    print(f"log digest {log.hexdigest()[:16]}")
    return 0


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sound = originals(Path(place))
    _limit_memory()
    return _run(sound, options.first, options.cases)


if __name__ == "__main__":
    sys.exit(main())
