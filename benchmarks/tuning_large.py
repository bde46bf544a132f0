"""All weights of a model learn in an eighth of what they and their means take: peak, bits, and distance to the floor.

    python benchmarks/tuning_large.py [--memory 960MB] [--steps 3] [--fresh]

A 0.5B shape with drawn weights. Weights, gradients and moments in float32 are 16 bytes each, 7.9 GB in all; what
does not fit rests on disk. The run has a real cap of its budget, and the same run with everything in memory must
give the same losses, to the bit. The floor of a step is the larger of two: what it reads and writes over the measured
rates of the disk, and 6 operations a weight and token over the measured float32 peak.
"""

from __future__ import annotations

import json
import sys
import time
from math import prod
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import OUT, Case, Record, capped, caps_work, cli, drawn_model, parser, probed_machine, remove
from tuning import examples

from pintpot import api
from pintpot.units import parse_bytes

LENGTH, SEQUENCES = 128, 4
TIMES, WITHIN, OVER_FLOOR = 8.0, 0.95, 1.3


def learned(memory: str, steps: int, limit: int | None) -> Case:
    """`pintpot tune` in a process of its own, under a cap where a limit is given."""
    folder = OUT / f"tuned-large-{time.time_ns()}"
    command = cli(
        "tune", str(drawn_model("0.5b", "q4_0")), str(examples()), "-o", str(folder), "--memory", memory,
        "--method", "full", "--steps", str(steps), "--length", str(LENGTH), "--sequences", str(SEQUENCES),
        "--arithmetic", "float32", "--threads", "2", "--json",
    )  # fmt: skip
    try:
        done = capped(command, limit).needed("learning")
    finally:
        remove(folder)
    told = json.loads(done.out)
    return {"told": told, "peak_bytes": done.peak_bytes, "seconds": done.seconds}


def floor_s(told: Any, num_weights: int) -> tuple[float, float]:
    """Seconds of a step by the disk, and by arithmetic."""
    machine, (read, written) = probed_machine(), told["promised"]["step_disk_bytes"]
    reading, writing = (
        machine.rate("disk", threads=1, size=2 << 20).mid, machine.rate("disk_write", threads=1, size=2 << 20).mid,
    )  # fmt: skip
    multiply_adds = 3.0 * num_weights * LENGTH * SEQUENCES
    return read / reading + written / writing, multiply_adds / (machine.rate("float_peak", threads=2).mid)


def judge(record: Record, found: Case, whole: Case, memory: int, num_weights: int) -> None:
    """Peak, bits and seconds of the run that rests on disk."""
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
    by_disk, by_arithmetic = floor_s(told, num_weights)
    floor = max(by_disk, by_arithmetic)
    record.say(f"floor of a step: disk {by_disk:.1f} s, arithmetic {by_arithmetic:.1f} s; a step in memory "
               f"{whole['told']['measured']['step_s']:.1f} s")  # fmt: skip
    record.verdict("a step over its floor", f"{step_s / floor:.2f}", f"{OVER_FLOOR}", step_s <= OVER_FLOOR * floor)


def main() -> int:
    """Parse the command line, measure, show."""
    options = parser(__doc__)
    options.add_argument("--memory", default="960MB")
    options.add_argument("--steps", type=int, default=3)
    asked = options.parse_args()
    record, memory = Record("tuning_large", fresh=asked.fresh), parse_bytes(asked.memory)
    probed_machine()
    limit = memory if caps_work(record) else None
    model = api.describe(str(drawn_model("0.5b", "q4_0")))
    num_weights = sum(prod(weight.shape) for weight in model.part("language").weights())
    found = record.case(f"{asked.memory}, {asked.steps} steps", lambda: learned(asked.memory, asked.steps, limit))
    whole = record.case(f"in memory, {asked.steps} steps", lambda: learned("16GB", asked.steps, None))
    judge(record, found, whole, memory, num_weights)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
