"""All weights of a model learn in an eighth of what they and their means take: peak, bits, and distance to the floor.

    python benchmarks/tuning_large.py [--memory 960MB] [--steps 4] [--fresh]

A 0.5B shape with drawn weights. Weights, gradients and moments in float32 are 16 bytes each, 7.9 GB in all; what
does not fit rests on disk. Runs have a real cap of their budget, and the same run with everything in memory must give
the same losses, to the bit. The floor of a step is the larger of two: what it reads and writes, by a loop that does
nothing else, the best of some with few and with as many requests at once as learning has, through as much memory as
weights and moments take on their way; and 6 operations a weight and token over the rate of PyTorch's own large products
in the arithmetic of the plan. Runs and loops take turns, and the best run's mean step is held against the best loop; a
loop of one request at a time that only ever fills the same two megabytes, which stay in a cache, is told beside it. In
a first step weights come from the model's own file, are decoded and written once more, and no moments are read: two
sevenths fewer bytes than in others.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import OUT, Case, Record, capped, caps_work, cli, drawn_model, parser, probed_machine, remove
from tuning import examples

from pintpot import api
from pintpot.machine.aten import with_aten
from pintpot.planner.names import AHEAD, OPTIMIZER
from pintpot.stream.regions import Regions
from pintpot.trainer.places import aligned_memory, bytes_of
from pintpot.trainer.resting import IN_FLIGHT
from pintpot.units import parse_bytes

LENGTH, SEQUENCES = 128, 4
TIMES, WITHIN, OVER_FLOOR = 8.0, 0.95, 1.3
FILE_BYTES, RECORD_BYTES, RUNS = 2 << 30, 2 << 20, 3
READERS_WRITERS = (1, 1), (IN_FLIGHT, IN_FLIGHT), (2 * IN_FLIGHT, IN_FLIGHT)
"""Threads of loops that do nothing else; learning has the last of these: values and moments are read, both written."""
Move = Callable[[int, memoryview], None]


def learned(memory: str, steps: int, arithmetic: str, limit: int | None) -> Case:
    """`pintpot tune` in a process of its own, under a cap where a limit is given."""
    folder = OUT / f"tuned-large-{time.time_ns()}"
    command = cli(
        "tune", str(drawn_model("0.5b", "q4_0")), str(examples()), "-o", str(folder), "--memory", memory,
        "--method", "full", "--steps", str(steps), "--length", str(LENGTH), "--sequences", str(SEQUENCES),
        "--arithmetic", arithmetic, "--threads", "2", "--json",
    )  # fmt: skip
    try:
        done = capped(command, limit).needed("learning")
    finally:
        remove(folder)
    told = json.loads(done.out)
    return {"told": told, "peak_bytes": done.peak_bytes, "seconds": done.seconds}


def moving(read_bytes: int, written_bytes: int, through_bytes: int) -> Case:
    """Seconds of loops that read and write a step's bytes at the same time, a record at a time, through some memory, by
    so many threads each; and of one that reads and then writes them through a single record."""
    folder = OUT / f"moved-{time.time_ns()}"
    folder.mkdir(parents=True)
    size = FILE_BYTES // RECORD_BYTES * RECORD_BYTES
    regions, num_bytes = Regions(folder / "file", size), (read_bytes, written_bytes)
    try:
        _move(regions.write, size, _records(1), 0, size)
        found = [_together(regions, counts, num_bytes, through_bytes, size) for counts in READERS_WRITERS]
        started = time.perf_counter()
        for move, total in zip((regions.read, regions.write), num_bytes, strict=True):
            _move(move, total, _records(1), 0, size)
        return {"seconds": found, "cached_seconds": time.perf_counter() - started}
    finally:
        regions.close()
        remove(folder)


def _together(regions: Regions, counts: tuple[int, int], num_bytes: tuple[int, int], through: int, size: int) -> float:
    """Seconds of so many threads that read and that write, each a part of the bytes through a part of the memory."""
    moves = [regions.read] * counts[0] + [regions.write] * counts[1]
    totals = [num_bytes[0] // counts[0]] * counts[0] + [num_bytes[1] // counts[1]] * counts[1]
    memory = [_records(through // RECORD_BYTES // len(moves)) for _ in moves]
    firsts = [index * (size // RECORD_BYTES) // len(moves) * RECORD_BYTES for index in range(len(moves))]
    started = time.perf_counter()
    with ThreadPoolExecutor(len(moves)) as pool:
        list(pool.map(_move, moves, totals, memory, firsts, [size] * len(moves)))
    return time.perf_counter() - started


def _records(count: int) -> list[memoryview]:
    """So many pieces of memory."""
    memory = bytes_of(aligned_memory(max(1, count) * RECORD_BYTES))
    return [memory[at : at + RECORD_BYTES] for at in range(0, len(memory), RECORD_BYTES)]


def _move(move: Move, total: int, records: list[memoryview], first: int, size: int) -> None:
    """So many bytes of a file of `size`, from its byte `first` on and round again, through some memory."""
    for at, record in zip(range(0, total, RECORD_BYTES), cycle(records), strict=False):
        move((first + at) % size, record)


def arithmetic_s(num_weights: int, arithmetic: str) -> float:
    """Seconds of a step's arithmetic at the rate of large products."""
    rates = with_aten(probed_machine(), True)
    what = "aten/product_bf16" if arithmetic == "bf16" else "aten/product"
    peak = max(rate.mid for rate in rates.rates if rate.what == what and rate.threads == 2)
    return 3.0 * num_weights * LENGTH * SEQUENCES / peak


def judge(record: Record, runs: list[Case], whole: Case, memory: int, num_weights: int) -> None:
    """Peaks and bits of the runs that rest on disk, and the seconds of their steps."""
    needed = 16 * num_weights
    over = f"{needed / memory:.1f}"
    record.verdict("weights and means over the budget", over, f"{TIMES:g}", needed >= TIMES * memory)
    for found in runs:
        told, promised = found["told"], found["told"]["promised"]
        peak, most = found["peak_bytes"], promised["memory_bytes"][1]
        of = f"{peak / 1e6:.0f} of {most / 1e6:.0f}"
        record.verdict("peak of what was promised, MB", of, f"{WITHIN:.0%} to 100%", WITHIN * most <= peak <= most)
        same = told["losses"] == whole["told"]["losses"]
        record.verdict("losses as with everything in memory", f"{told['losses']}", "the same bits", same)
        step_s, (low, high) = told["measured"]["step_s"], promised["step_s"]
        record.verdict("a step, s", f"{step_s:.1f}", f"{low:.1f} to {high:.1f}", low <= step_s <= high)


def judge_floor(record: Record, runs: list[Case], moves: list[Case], whole: Case, by_arithmetic: float) -> None:
    """The best step beside its floor."""
    step_s = min(found["told"]["measured"]["step_s"] for found in runs)
    by_disk = min(seconds for moved in moves for seconds in moved["seconds"])
    cached = min(moved["cached_seconds"] for moved in moves)
    in_memory = whole["told"]["measured"]["step_s"]
    record.say(
        f"floor of a step: disk {by_disk:.1f} s ({cached:.1f} through one record), arithmetic {by_arithmetic:.1f} s; "
        f"a step in memory {in_memory:.1f} s"
    )
    over = step_s / max(by_disk, by_arithmetic)
    record.verdict("the best step over its floor", f"{over:.2f}", f"{OVER_FLOOR}", over <= OVER_FLOOR)


def main() -> int:
    """Parse the command line, measure, show."""
    options = parser(__doc__)
    options.add_argument("--memory", default="960MB")
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--arithmetic", default="bf16", choices=("float32", "bf16"))
    asked = options.parse_args()
    record, memory = Record("tuning_large", fresh=asked.fresh), parse_bytes(asked.memory)
    probed_machine()
    limit = memory if caps_work(record) else None
    model = api.describe(str(drawn_model("0.5b", "q4_0")))
    num_weights = sum(prod(weight.shape) for weight in model.part("language").weights())
    steps, arithmetic = asked.steps, asked.arithmetic
    key = f"{steps} steps, {arithmetic}"
    runs, moves = list[Case](), list[Case]()
    for run in range(1, RUNS + 1):
        what = f"{asked.memory}, {key}, run {run}"
        runs.append(record.case(what, lambda: learned(asked.memory, steps, arithmetic, limit)))
        plan, (read, written) = runs[-1]["told"]["plan"], runs[-1]["told"]["promised"]["step_disk_bytes"]
        through = sum(one["high"] for one in plan["cost"]["holders"] if one["name"] in (AHEAD, OPTIMIZER))
        what = f"moving {read:.0f} and {written:.0f} bytes through {through}, round {run}"
        moves.append(record.case(what, partial(moving, int(read), int(written), through)))
    whole = record.case(f"in memory, {key}", lambda: learned("16GB", steps, arithmetic, None))
    judge(record, runs, whole, memory, num_weights)
    judge_floor(record, runs, moves, whole, arithmetic_s(num_weights, arithmetic))
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
