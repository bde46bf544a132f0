"""Sequences side by side: tokens a second of 1, 4, 16 and 64, beside the nearer of two limits measured in turn.

    python benchmarks/batches.py [--model smollm2] [--context 256] [--planes 1] [--cache f16] [--threads 2] [--rounds 9]
        [--only 16] [--profile]

Weights as they are stored (SmolLM2, or a shape of make_model.py in Q4_0), every sequence in the middle of its answer
with so many positions in the cache. The limits of a step are a plain loop that reads as many bytes as its weights and
caches have, and its multiply-adds, each at the peak of the format it runs in: int8, and float32 in attention. A process
beside the run measures them before each of its samples. Steps are timed from word to word: choosing the tokens and the
interpreter between two steps are inside. Before anything is timed every answer is compared with that of a run alone.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from bench import OUT, Case, Record, drawn_model, parser, probed_machine, remove, smollm2
from counting import Shape, weight_bytes
from driven import Driven
from texts import shipped_text

from pintpot import api
from pintpot.budget import Budget, Workload
from pintpot.contract.step import Step
from pintpot.errors import PintpotError, need
from pintpot.packer.manifest import read_manifest
from pintpot.planner.assess import assess
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.question import Question
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.cache.eight_bit import EightBitCache
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.int8_activations import Int8Activations

SMOLLM2 = "smollm2"
NUMBERS = (1, 4, 16, 64)
WANTED = 0.6
MEMORY_BYTES = 6_000_000_000
SETTLING, SAMPLE_S = 4, 0.15
CHECKED = 12
"""Tokens of each answer that are compared with those of a run alone."""


def make_pack(number: int, asked: Any) -> Path:
    """The model for so many sequences, with the steps that were asked for."""
    steps: list[Step] = [AsStored("all"), PrefillChunk(tokens=256)]
    steps += [Int8Activations(prefill=asked.planes, decode=asked.planes)] if asked.planes else []
    steps += [EightBitCache()] if asked.cache == "int8" else []
    source = smollm2() if asked.model == SMOLLM2 else drawn_model(asked.model, "q4_0")
    model, half = api.describe(source), asked.context // 2
    workload = Workload(context=asked.context + half, batch=number, prompt=half, output=asked.context)
    budget = Budget(MEMORY_BYTES, workload, degradation=10.0, threads=asked.threads)
    plan = assess(Question(model, probed_machine(), budget, shipped_priors()), steps)
    folder = OUT / "packs" / f"batches-{number}"
    if folder.exists():
        remove(folder)
    return api.pack(model, plan, folder)


def alone(folder: Path, number: int, prompt: int) -> list[list[int]]:
    """The beginnings of the answers, each by itself."""
    with Driven("pack", str(folder)) as pack:
        answers = []
        for first in range(number):
            begun = pack.ask("start", text=shipped_text(), prompt=prompt, output=CHECKED, first=first)
            answers.append([begun["token"], *pack.ask("steps", number=CHECKED - 1)["tokens"]])
    return answers


def measure(number: int, asked: Any) -> Case:
    """Samples of steps with so many sequences, and of the limits, in turn."""
    folder, half = make_pack(number, asked), asked.context // 2
    manifest, _ = read_manifest(folder)
    plan = manifest.plan
    shape = Shape.of(plan.config)
    weights, _ = weight_bytes(folder, manifest)
    wanted = alone(folder, number, half) if number > 1 else []
    num_bytes = int(weights + shape.cache_bytes(number * asked.context, plan.form.cache.format))
    samples = []
    with Driven("pack", str(folder)) as pack, Driven("limit", str(num_bytes), str(plan.threads)) as limit:
        begun = pack.ask("start", text=shipped_text(), prompt=half, output=asked.context, sequences=number)
        if number > 1:
            told = pack.ask("steps", number=number * (CHECKED - 1))["tokens"]
            found = [[token, *told[at::number]] for at, token in enumerate(begun["begun"])]
            need(found == wanted, f"{number} sequences: an answer differs from that of a run alone", PintpotError)
        step_s = pack.ask("steps", number=number * SETTLING)["wall_s"] / SETTLING
        rest = asked.context - SETTLING - CHECKED - 1
        steps = max(2, min(round(SAMPLE_S / step_s), rest // asked.rounds))
        if asked.profile:
            pack.ask("profile", on=True)
        for _ in range(min(asked.rounds, rest // steps)):
            limits = limit.ask("sample")
            done = pack.ask("steps", number=number * steps)
            samples.append({**limits, "wall_s": done["wall_s"] / steps, "step_s": statistics.mean(done["step_s"])})
        ops = pack.ask("profile", on=False) if asked.profile else None
    remove(folder)
    attended = shape.multiply_adds(0, 0, number * asked.context)
    madds = {"int8": shape.multiply_adds(number, number, 0), "float32": attended}
    promised = plan.cost.stage("decode").tokens_per_s
    return {
        "samples": samples, "bytes": num_bytes, "multiply_adds": madds, "ops": ops, "prompt_s": begun["prompt_s"],
        "promised": [promised.low, promised.high], "peak": done["peak_bytes"], "memory": plan.cost.memory_high,
    }  # fmt: skip


def show(record: Record, cases: dict[int, Case]) -> None:
    """The table, the verdicts, and where the time of a step goes."""
    rows = []
    for number, case in cases.items():
        floors = [(one["read_s"], _arithmetic_s(case["multiply_adds"], one)) for one in case["samples"]]
        shares = [max(floor) / one["wall_s"] for floor, one in zip(floors, case["samples"], strict=True)]
        speeds = sorted(number / one["wall_s"] for one in case["samples"])
        read_s, arithmetic_s = (statistics.median(floor[at] for floor in floors) for at in (0, 1))
        case["share"] = statistics.median(shares)
        step_s = statistics.median(one["wall_s"] for one in case["samples"])
        rows.append((
            str(number), f"{statistics.median(speeds):.0f}", f"{speeds[0]:.0f} to {speeds[-1]:.0f}",
            f"{case['promised'][0]:.0f} to {case['promised'][1]:.0f}", f"{step_s * 1e3:.2f}", f"{read_s * 1e3:.2f}",
            f"{arithmetic_s * 1e3:.2f}", f"{case['share']:.0%}", f"{max(shares):.0%}",
            f"{case['peak'] / 1e6:.0f} of {case['memory'] / 1e6:.0f}",
        ))  # fmt: skip
    columns = (
        "sequences", "tok/s", "spread", "promised", "step ms", "bytes ms", "sums ms", "share", "best", "memory MB",
    )  # fmt: skip
    record.table(columns, rows)
    record.say()
    for number, case in cases.items():
        share = case["share"]
        record.verdict(
            f"{number} sequences, share of the nearer limit", f"{share:.0%}", f"{WANTED:.0%}", share >= WANTED
        )
        kept = case["peak"] <= case["memory"]
        record.verdict(f"{number} sequences, memory", str(case["peak"]), f"{case['memory']} at most", kept)
    for number, case in cases.items():
        if case["ops"]:
            record.say(f"\n{number} sequences, milliseconds of a step by op")
            record.table(("op", "ms"), [(name, f"{s * 1e3:.3f}") for name, s in _by_op(case["ops"]).items()])


def _arithmetic_s(multiply_adds: dict[str, float], limits: dict[str, float]) -> float:
    """Seconds of so many by format, each at its own peak."""
    return sum(number / limits[f"{name}_per_s"] for name, number in multiply_adds.items())


def _by_op(ops: dict[str, Any]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for name, seconds in zip(ops["names"], ops["seconds"], strict=True):
        key = " ".join(name)
        sums[key] = sums.get(key, 0.0) + seconds / ops["calls"]
    return sums


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--model", default=SMOLLM2, help="or a shape that make_model.py draws: 0.5b, 1.5b")
    options.add_argument("--context", type=int, default=256, help="positions of every sequence, in the mean")
    options.add_argument("--planes", type=int, default=1, choices=(0, 1, 2), help="of int8 rows; 0: float32")
    options.add_argument("--cache", choices=("f16", "int8"), default="f16")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--only", type=int, help="this many sequences alone")
    options.add_argument("--profile", action="store_true", help="the time of each op; it costs a little itself")
    asked = options.parse_args()
    record = Record("batches", fresh=asked.fresh or asked.profile)
    record.say(
        f"{asked.model}, {asked.context} positions a sequence in a cache of {asked.cache}, rows in "
        f"{f'{asked.planes} planes of int8' if asked.planes else 'float32'}, {asked.threads} threads\n"
    )
    cases = {}
    for number in (asked.only,) if asked.only else NUMBERS:
        key = f"{asked.model} {number}, {asked.context} {asked.planes} {asked.cache} {asked.threads}"
        cases[number] = record.case(key, partial(measure, number, asked))
    show(record, cases)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
