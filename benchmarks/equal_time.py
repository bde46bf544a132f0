"""Learning with and without gradients in equal time: what each method reached on held-out text inside one budget.

    python benchmarks/equal_time.py                                  # SmolLM2, 2 GB, 5 minutes of steps for each method
    python benchmarks/equal_time.py --minutes 2 --memory 1500MB --methods full zeroth
    python benchmarks/equal_time.py --methods lora       # one at a time: without --fresh what others reached is kept

A few steps tell how long the first and another take; then as many are taken as fill the minutes, from the beginning, at
the rates that `pintpot tune` takes by itself (2e-4 with gradients; without them 1e-6, or what --rate-of-zeroth says),
held constant. Text, sequences and their order are those of `tuning.py`. Seconds are those of steps alone: plans,
reading and asking are told by no method's clock. Where the machine is quiet for a short while only, --only-first asks
there for the seconds of a step, and a second start takes the steps beside other work: what they reach is the same.
Steps without gradients say little each, and their authors took 20,000 to 100,000.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from math import exp
from pathlib import Path

from bench import OUT, Case, Record, cli, parser, smollm2
from tuning import LENGTH, SEQUENCES, examples

from pintpot.units import parse_bytes

METHODS = ("full", "lora", "zeroth")
FIRST_STEPS = (1, 4)
"""Of two short runs: the first step of a process takes longer than those that follow."""
OFF = 0.25
"""How far a run's seconds may lie from those that were asked for."""


def taught(model: str, data: Path, method: str, steps: int, memory: str, rate: str) -> Case:
    """`pintpot tune` in a process of its own; what is needed of its receipt."""
    folder = OUT / f"equal-{method}-{steps}-{time.time_ns()}"
    command = cli(
        "tune", model, str(data), "-o", str(folder), "--memory", memory, "--method", method, "--steps", str(steps),
        "--length", str(LENGTH), "--sequences", str(SEQUENCES), "--schedule", "constant", "--warmup", "0",
        *(("--learning-rate", rate) if rate else ()), "--threads", "2", "--json",
    )  # fmt: skip
    done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    measured = done["measured"]
    return {
        "steps": steps, "asked": done["asked"], "losses": done["losses"], "seconds": measured["seconds"],
        "step_s": measured["step_s"], "peak_bytes": measured["peak_bytes"],
        "chosen": [one["name"] for one in done["plan"]["steps"]],
    }  # fmt: skip


def first_of(record: Record, key: str, run: tuple[str, Path, str, str, str]) -> tuple[float, float]:
    """A few steps, for their seconds: of the first one, and of one more."""
    model, data, method, memory, rate = run
    few, more = (
        record.case(f"{key}, first {steps}", lambda steps=steps: taught(model, data, method, steps, memory, rate))
        for steps in FIRST_STEPS
    )
    each = (more["seconds"] - few["seconds"]) / (more["steps"] - few["steps"])
    return few["seconds"], each if each > 0 else more["step_s"]


def filling(record: Record, key: str, seconds: float, run: tuple[str, Path, str, str, str]) -> Case:
    """A run of as many steps as fill the seconds."""
    model, data, method, memory, rate = run
    first, each = first_of(record, key, run)
    steps = 1 + max(0, round((seconds - first) / each))
    return record.case(f"{key}, {seconds:.0f} s", lambda: taught(model, data, method, steps, memory, rate))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--model", default="")
    options.add_argument("--minutes", type=float, default=5.0)
    options.add_argument("--memory", default="2GB")
    options.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options.add_argument("--rate-of-zeroth", default="")
    options.add_argument("--only-first", action="store_true", help="say how long steps take, and end: others take them")
    given = options.parse_args()
    record, data, rows = Record("equal_time", fresh=given.fresh), examples(), []
    seconds, most = 60 * given.minutes, parse_bytes(given.memory)
    for method in given.methods:
        rate = given.rate_of_zeroth if method == "zeroth" else ""
        run = given.model or str(smollm2()), data, method, given.memory, rate
        key = f"{method} {given.memory} {rate or 'own rate'} {Path(run[0]).name}"
        if given.only_first:
            first, each = first_of(record, key, run)
            record.say(f"{method}: {each:.2f} s a step, the first {first:.2f}")
            continue
        found = filling(record, key, seconds, run)
        (_, before), *_, (_, after) = found["asked"]
        apart, peak = abs(found["seconds"] - seconds) / seconds, found["peak_bytes"]
        record.verdict(f"{method}: seconds", f"{found['seconds']:.0f}", f"{seconds:.0f} within {OFF:.0%}", apart <= OFF)
        record.verdict(f"{method}: peak", f"{peak / 1e6:.0f} MB", f"at most {most / 1e6:.0f}", peak <= most)
        losses = (f"{before:.4f}", f"{after:.4f}", f"{exp(before):.2f}", f"{exp(after):.2f}")
        rows.append((method, str(found["steps"]), f"{found['step_s']:.2f}", f"{peak / 1e6:.0f}", *losses))
    record.say()
    record.table(("method", "steps", "s a step", "peak, MB", "nats", "after", "perplexity", "after"), rows)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
