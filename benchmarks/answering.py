"""Inside the processes that benchmarks drive: an open pack, the machine's rates, and plain direct reads.

    python benchmarks/answering.py pack FOLDER | rates THREADS FORMATS | disk FILE

Reads one JSON request a line from standard input and answers with one JSON line. It imports as little as it can: what
it holds is counted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

SETTLED_S = 0.03
SAMPLES, SAMPLE_S = 3, 0.01
ARENA_BYTES = 400_000_000


class Pack:
    """An open pack: `opened`, then `start` and `steps` as often as wanted."""

    def __init__(self, folder: str) -> None:
        import pintpot.cli.run  # noqa: F401  (what `pintpot run` has in memory)
        from pintpot import api

        started = time.perf_counter()
        self._session = api.run(folder)
        self._open_s = time.perf_counter() - started
        self._words: Iterator[int] = iter(())
        # Of the last request, for a processor that rested just before a prompt takes longer over it.
        self._settled = settled_read_bytes()

    def opened(self) -> dict[str, Any]:
        """Seconds and memory of the opening, by holder."""
        return {"open_s": self._open_s, "held": self._session.held, "notes": self._session.notes, **self.memory()}

    def start(self, text: str, prompt: int, output: int) -> dict[str, Any]:
        """A prompt of so many tokens, repeated from a text; the answer has `output` of them. Gives the first."""
        from pintpot.runtime.request import Request, Sampling

        tokens = self._session.tokenizer.encode(text)
        tokens = (tokens * -(-prompt // len(tokens)))[:prompt]
        self._session.engine.reset()
        request = Request(tuple(tokens), output, Sampling(temperature=0.0), (), ignore_end=True)
        before = self._settled
        self._words = self._session.engine.generate(request, frozenset())
        first = next(self._words)
        timing = self._session.engine.timing
        read = settled_read_bytes() - before
        return {"token": first, "prompt_s": timing.prompt_s, "read_bytes": read, **self.memory()}

    def steps(self, number: int) -> dict[str, Any]:
        """The next tokens: seconds of each step, bytes read from disk, and what the ring's readers did meanwhile."""
        ring, engine = self._session.ring, self._session.engine
        before, known = settled_read_bytes(), len(engine.timing.step_s)
        if ring is not None:
            ring.reset_stats()
        tokens = [next(self._words) for _ in range(number)]
        stats = None if ring is None else ring.stats()
        self._settled = settled_read_bytes()
        read = self._settled - before
        found = {"tokens": tokens, "step_s": engine.timing.step_s[known:], "read_bytes": read, "ring": stats}
        return {**found, **self.memory()}

    def memory(self) -> dict[str, int]:
        """Memory of this process now, and its peak."""
        from pintpot.meter.memory import usage

        found = usage()
        return {"peak_bytes": found.peak_bytes, "resident_bytes": found.resident_bytes}


class Rates:
    """The machine's rates with so many threads and these formats, by the loops of the probe itself."""

    def __init__(self, threads: str, formats: str) -> None:
        from pintpot.machine.loops import bench, cpu_loops

        stand = bench((int(threads),), ARENA_BYTES, quick=False)
        wanted = formats.split(",")
        self._loops = [loop for loop in cpu_loops(stand) if self._matters(loop.what, wanted)]
        self._rounds = [max(1, round(SAMPLE_S / max(loop.run(1)[1], 1e-8))) for loop in self._loops]

    def sample(self) -> list[dict[str, Any]]:
        """What, threads, size, and units a second of every loop, over samples that take turns."""
        units, seconds = [0.0] * len(self._loops), [0.0] * len(self._loops)
        for _ in range(SAMPLES):
            for index, (loop, rounds) in enumerate(zip(self._loops, self._rounds, strict=True)):
                more, took = loop.run(rounds)
                units[index] += more
                seconds[index] += took
        return [
            {"what": loop.what, "threads": loop.threads, "size": loop.size, "rate": units[index] / seconds[index]}
            for index, loop in enumerate(self._loops)
        ]

    @staticmethod
    def _matters(what: str, formats: list[str]) -> bool:
        kind, _, name = what.partition("/")
        return name.removesuffix("x0").removesuffix("x2") in formats if kind in ("matvec", "matmul") else kind != "copy"


class Disk:
    """Direct reads of a region of a file, thrown away."""

    def __init__(self, file: str) -> None:
        self._file = file

    def read(self, offset: int, num_bytes: int, block: int, in_flight: int, seconds: float) -> dict[str, Any]:
        """Bytes a second over about so many seconds, and whether the reads went past the page cache."""
        from pintpot.stream.reader import disk_rate

        done = disk_rate(self._file, offset, num_bytes, in_flight=in_flight, block=block, seconds=seconds)
        return {"rate": done.bytes_per_s, "num_bytes": done.num_bytes, "seconds": done.seconds, "direct": done.direct}


def settled_read_bytes() -> int:
    """Bytes that this process had read from disks, once no more of them arrive: readers run ahead."""
    from pintpot.meter.disk import traffic

    before = -1
    while (now := traffic().read_bytes) != before:
        before = now
        time.sleep(SETTLED_S)
    return now


KINDS = {"pack": Pack, "rates": Rates, "disk": Disk}


def main() -> None:
    """Answer requests until standard input ends."""
    kind, *arguments = sys.argv[1:]
    answerer = KINDS[kind](*arguments)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(answerer, request.pop("what"))(**request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    # Nothing is left to tidy up, and a large pack would take its time over it.
    os._exit(0)


if __name__ == "__main__":
    main()
