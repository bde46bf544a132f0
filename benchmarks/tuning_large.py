"""All weights of a model learn in an eighth of what they and their means take: peak, bits, and distance to the floor.

    python benchmarks/tuning_large.py [--memory 960MB] [--steps 3] [--fresh]

A 0.5B shape with drawn weights. Weights, gradients and moments in float32 are 16 bytes each, 7.9 GB in all; what
does not fit rests on disk. Runs have a real cap of their budget, and the same run with everything in memory must give
the same losses, to the bit. The floor of a step is the larger of two: what it reads and writes, by a loop that does
nothing else, as many requests at once as learning has, through as much memory as the step's weights take on their way;
and 6 operations a weight and token over the rate of PyTorch's own large products in the arithmetic of the plan. Runs
and loops take turns, and the best step is held against the best loop. A loop that only ever fills the same two
megabytes, which stay in a cache, is told beside it: no step can be that fast. Of a first step, weights come from the
model's own file.
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
from pintpot.planner.names import AHEAD
from pintpot.stream.regions import Regions
from pintpot.trainer.places import aligned_memory, bytes_of
from pintpot.trainer.resting import IN_FLIGHT
from pintpot.units import parse_bytes

LENGTH, SEQUENCES = 128, 4
TIMES, WITHIN, OVER_FLOOR = 8.0, 0.95, 1.3
FILE_BYTES, RECORD_BYTES, RUNS = 2 << 30, 2 << 20, 2


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
    """Seconds of a loop that reads and writes a step's bytes at the same time, a record at a time, through some memory;
    and of one that reads and then writes them through a single record."""
    folder = OUT / f"moved-{time.time_ns()}"
    folder.mkdir(parents=True)
    size = FILE_BYTES // RECORD_BYTES * RECORD_BYTES
    regions = Regions(folder / "file", size)
    try:
        for at in range(0, size, RECORD_BYTES):
            regions.write(at, bytes_of(aligned_memory(RECORD_BYTES)))
        records = max(1, through_bytes // RECORD_BYTES // (2 * IN_FLIGHT))
        parts = [(regions.read, read_bytes), (regions.write, written_bytes)]
        shares = [(move, total // IN_FLIGHT) for move, total in parts for _ in range(IN_FLIGHT)]
        started = time.perf_counter()
        with ThreadPoolExecutor(2 * IN_FLIGHT) as pool:
            moving = [pool.submit(_move, *part, records, size) for part in shares]
            for one in moving:
                one.result()
        together = time.perf_counter() - started
        return {"seconds": together, "cached_seconds": sum(_move(move, total, 1, size) for move, total in parts)}
    finally:
        regions.close()
        remove(folder)


def _move(move: Callable[[int, memoryview], None], total: int, count: int, size: int) -> float:
    """Seconds for so many bytes through `count` records of memory, one after the other."""
    memory = bytes_of(aligned_memory(count * RECORD_BYTES))
    records = cycle([memory[at : at + RECORD_BYTES] for at in range(0, count * RECORD_BYTES, RECORD_BYTES)])
    started = time.perf_counter()
    for at, record in zip(range(0, total, RECORD_BYTES), records, strict=False):
        move(at % size, record)
    return time.perf_counter() - started


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
    by_disk, cached = (min(moved[name] for moved in moves) for name in ("seconds", "cached_seconds"))
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
        through = sum(one["high"] for one in plan["cost"]["holders"] if one["name"] == AHEAD)
        what = f"moving {read:.0f} and {written:.0f} bytes, round {run}"
        moves.append(record.case(what, partial(moving, int(read), int(written), through)))
    whole = record.case(f"in memory, {key}", lambda: learned("16GB", steps, arithmetic, None))
    judge(record, runs, whole, memory, num_weights)
    judge_floor(record, runs, moves, whole, arithmetic_s(num_weights, arithmetic))
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
