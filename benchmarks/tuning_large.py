"""All weights of a model learn in an eighth of what they and their means take: peak, bits, and distance to the floor.

    python benchmarks/tuning_large.py [--memory 960MB] [--steps 3] [--fresh]

A 0.5B shape with drawn weights. Weights, gradients and moments in float32 are 16 bytes each, 7.9 GB in all; what
does not fit rests on disk. The run has a real cap of its budget, and the same run with everything in memory must
give the same losses, to the bit. The floor of a step is the larger of two: what it reads and writes, by a loop that
does nothing else, after the run and for as long as a step; and 6 operations a weight and token over the rate of
PyTorch's own large products in the arithmetic of the plan. Of a first step, weights come from the model's own file.
"""

from __future__ import annotations

import json
import sys
import time
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import OUT, Case, Record, capped, caps_work, cli, drawn_model, parser, probed_machine, remove
from tuning import examples

from pintpot import api
from pintpot.machine.aten import with_aten
from pintpot.stream.regions import Regions
from pintpot.trainer.places import aligned_memory, bytes_of
from pintpot.units import parse_bytes

LENGTH, SEQUENCES = 128, 4
TIMES, WITHIN, OVER_FLOOR = 8.0, 0.95, 1.3
FILE_BYTES, RECORD_BYTES, ROUNDS = 2 << 30, 2 << 20, 2


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


def moving(read_bytes: int, written_bytes: int) -> Case:
    """Seconds of a loop that moves a step's bytes, read and written in turn, a record at a time; the best of some."""
    folder = OUT / f"moved-{time.time_ns()}"
    folder.mkdir(parents=True)
    size = FILE_BYTES // RECORD_BYTES * RECORD_BYTES
    regions, memory = Regions(folder / "file", size), bytes_of(aligned_memory(RECORD_BYTES))
    try:
        found = [_moved(regions, memory, (read_bytes, written_bytes), size) for _ in range(ROUNDS)]
    finally:
        regions.close()
        remove(folder)
    return {"seconds": found}


def _moved(regions: Regions, memory: memoryview, num_bytes: tuple[int, int], size: int) -> float:
    for at in range(0, size, RECORD_BYTES):
        regions.write(at, memory)
    started = time.perf_counter()
    for count, move in zip(num_bytes, (regions.read, regions.write), strict=True):
        for at in range(0, count, RECORD_BYTES):
            move(at % size, memory)
    return time.perf_counter() - started


def floor_s(moved: Case, num_weights: int, arithmetic: str) -> tuple[float, float]:
    """Seconds of a step by the disk, and by arithmetic."""
    rates = with_aten(probed_machine(), True)
    what = "aten/product_bf16" if arithmetic == "bf16" else "aten/product"
    peak = max(rate.mid for rate in rates.rates if rate.what == what and rate.threads == 2)
    return min(moved["seconds"]), 3.0 * num_weights * LENGTH * SEQUENCES / peak


def judge(record: Record, cases: tuple[Case, Case, Case], memory: int, num_weights: int, arithmetic: str) -> None:
    """Peak, bits and seconds of the run that rests on disk."""
    found, whole, moved = cases
    told, promised = found["told"], found["told"]["promised"]
    needed, most = 16 * num_weights, promised["memory_bytes"][1]
    over = f"{needed / memory:.1f}"
    record.verdict("weights and means over the budget", over, f"{TIMES:g}", needed >= TIMES * memory)
    peak, held = found["peak_bytes"], WITHIN * most <= found["peak_bytes"] <= most
    record.verdict(
        "peak of what was promised, MB", f"{peak / 1e6:.0f} of {most / 1e6:.0f}", f"{WITHIN:.0%} to 100%", held
    )
    same = told["losses"] == whole["told"]["losses"]
    record.verdict("losses as with everything in memory", f"{told['losses']}", "the same bits", same)
    step_s, (low, high) = told["measured"]["step_s"], promised["step_s"]
    record.verdict("a step, s", f"{step_s:.1f}", f"{low:.1f} to {high:.1f}", low <= step_s <= high)
    by_disk, by_arithmetic = floor_s(moved, num_weights, arithmetic)
    floor = max(by_disk, by_arithmetic)
    record.say(f"floor of a step: disk {by_disk:.1f} s, arithmetic {by_arithmetic:.1f} s; a step in memory "
               f"{whole['told']['measured']['step_s']:.1f} s")  # fmt: skip
    record.verdict("a step over its floor", f"{step_s / floor:.2f}", f"{OVER_FLOOR}", step_s <= OVER_FLOOR * floor)


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
    found = record.case(f"{asked.memory}, {key}", lambda: learned(asked.memory, steps, arithmetic, limit))
    read, written = found["told"]["promised"]["step_disk_bytes"]
    moved = record.case(f"moving {read:.0f} and {written:.0f} bytes", lambda: moving(int(read), int(written)))
    whole = record.case(f"in memory, {key}", lambda: learned("16GB", steps, arithmetic, None))
    judge(record, (found, whole, moved), memory, num_weights, arithmetic)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
