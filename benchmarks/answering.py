"""Inside the processes that benchmarks drive: an open pack, the machine's rates, and plain direct reads.

    python benchmarks/answering.py pack FOLDER [THREADS] | rates THREADS FORMATS | disk FILE | limit BYTES THREADS

Reads one JSON request a line from standard input and answers with one JSON line. It imports as little as it can: what
it holds is counted.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pintpot.runtime.scheduler import Drawn

SETTLED_S = 0.03
SAMPLES, SAMPLE_S = 3, 0.01
LIMIT_S = 0.03
ARENA_BYTES = 400_000_000


class Pack:
    """An open pack: `opened`, then `start` and `steps` as often as wanted."""

    def __init__(self, folder: str, threads: str = "") -> None:
        import pintpot.cli.run  # noqa: F401  (what `pintpot run` has in memory)
        from pintpot import api

        started = time.perf_counter()
        self._session = api.run(folder, threads=int(threads) if threads else None)
        self._open_s = time.perf_counter() - started
        self._words: Iterator[Drawn] = iter(())
        # Of the last request, for a processor that rested just before a prompt takes longer over it.
        self._settled = settled_read_bytes()

    def opened(self) -> dict[str, Any]:
        """Seconds and memory of the opening, by holder."""
        return {"open_s": self._open_s, "held": self._session.held, "notes": self._session.notes, **self.memory()}

    def start(self, text: str, prompt: int, output: int, sequences: int = 1, first: int = 0) -> dict[str, Any]:
        """Prompts of so many tokens, repeated from a text, each beginning a token later, the first one at `first`.

        The answers have `output` tokens and run side by side. Gives the first token of each.
        """
        from pintpot.runtime.request import Request, Sampling

        tokens = self._session.tokenizer.encode(text)
        tokens = (tokens * (2 + (prompt + sequences + first) // len(tokens)))[first:]
        greedy = Sampling(temperature=0.0)
        asked = [
            Request(tuple(tokens[at : at + prompt]), output, greedy, (), ignore_end=True) for at in range(sequences)
        ]
        self._session.engine.reset()
        before = self._settled
        self._words = self._session.engine.generate_many(asked, frozenset())
        begun = [next(self._words).token for _ in asked]
        timing = self._session.engine.timing
        read = settled_read_bytes() - before
        return {"token": begun[0], "begun": begun, "prompt_s": timing.prompt_s, "read_bytes": read, **self.memory()}

    def steps(self, number: int) -> dict[str, Any]:
        """The next tokens: seconds of each step, bytes read from disk, and what the ring's readers did meanwhile.

        With several sequences there are `number` of them altogether, in the order in which they were drawn; `wall_s`
        is the time of all, what the interpreter does between the steps included.
        """
        ring, engine = self._session.ring, self._session.engine
        before, known = settled_read_bytes(), len(engine.timing.step_s)
        if ring is not None:
            ring.reset_stats()
        started = time.perf_counter()
        tokens = [next(self._words).token for _ in range(number)]
        wall_s = time.perf_counter() - started
        stats = None if ring is None else ring.stats()
        self._settled = settled_read_bytes()
        read = self._settled - before
        step_s = list(engine.timing.step_s[known:])
        found = {"tokens": tokens, "step_s": step_s, "wall_s": wall_s, "read_bytes": read, "ring": stats}
        return {**found, **self.memory()}

    def profile(self, on: bool) -> dict[str, Any]:
        """Start taking the time of every op of a decode step; or stop, and give kind, weights and seconds of each."""
        replay = self._session.engine.stage("decode")
        if on:
            replay.profile(True)
            return {}
        stats = replay.stats()
        replay.profile(False)
        names = [[op.kind, *(name.split(".")[-1] for name in op.read_all("weight"))] for op in replay.program.ops]
        return {"calls": stats.calls, "names": names, "seconds": stats.seconds}

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


class Limit:
    """What this machine gives at most: a plain loop over so many bytes, and multiply-adds in registers."""

    def __init__(self, num_bytes: str, threads: str) -> None:
        from pintpot._native import Arena, Pool

        self._pool = Pool(int(threads))
        self._bytes = int(num_bytes)
        self._arena = Arena(self._bytes, True)
        ctypes.memset(self._arena.address, 0x3C, self._arena.nbytes)

    def sample(self) -> dict[str, float]:
        """Seconds of a pass over the bytes, and multiply-adds a second: of int8, and of float32."""
        from pintpot._native import measure

        once = measure.read(self._pool, self._arena, self._bytes, 1)
        rounds = max(1, round(LIMIT_S / once))
        read_s = measure.read(self._pool, self._arena, self._bytes, rounds) / rounds
        found = {"read_s": read_s}
        for name, floats in (("int8", False), ("float32", True)):
            operations, seconds = measure.peak(self._pool, floats, 20_000)
            found[f"{name}_per_s"] = operations / seconds
        return found


class Disk:
    """Direct reads of a region of a file, thrown away."""

    def __init__(self, file: str) -> None:
        self._file = file

    def read(self, offset: int, num_bytes: int, block: int, in_flight: int, seconds: float) -> dict[str, Any]:
        """Bytes a second over about so many seconds, and whether the reads went past the page cache."""
        from pintpot.stream.reader import disk_rate

        done = disk_rate(self._file, offset, num_bytes, in_flight=in_flight, block=block, seconds=seconds)
        return {"rate": done.bytes_per_s, "num_bytes": done.num_bytes, "seconds": done.seconds, "direct": done.direct}


def pin(cpu: int) -> int:
    """All threads of this process, and those that they will start, on one processor."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {cpu})
    return cpu


def cpu_seconds() -> float:
    """Processor time that all threads of this process took so far."""
    return time.process_time()


def settled_read_bytes() -> int:
    """Bytes that this process had read from disks, once no more of them arrive: readers run ahead."""
    from pintpot.meter.disk import traffic

    before = -1
    while (now := traffic().read_bytes) != before:
        before = now
        time.sleep(SETTLED_S)
    return now


COMMON = {"pin": pin, "cpu_seconds": cpu_seconds}
KINDS = {"pack": Pack, "rates": Rates, "disk": Disk, "limit": Limit}


def main() -> None:
    """Answer requests until standard input ends."""
    kind, *arguments = sys.argv[1:]
    answerer = KINDS[kind](*arguments)
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("what")
        answer = (COMMON.get(what) or getattr(answerer, what))(**request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    # Nothing is left to tidy up, and a large pack would take its time over it.
    os._exit(0)


if __name__ == "__main__":
    main()
