"""Promised speed: exact counts, seconds from rates of the same minutes, and a range that holds what is measured.

    python benchmarks/promises.py [--rounds 7] [--only TEXT] [--quick] [--fresh]

SmolLM2 in several budgets, contexts and formats, and models with the shapes of Qwen 2.5 0.5B and 1.5B, drawn. For each:

- bytes from RAM, bytes from the disk and multiply-adds of a token are within 1% of a count that does not use the
  planner: shapes, the packed file's own header, and what the kernel says it fetched from the disk (/proc/self/io);
- seconds, computed anew from rates that two other processes measure in turn with the run, are within 12% of what the
  run took, in 90% of the cases (each the median of its rounds, prefill and decode apart);
- the range that the plan promised out of the stored probe holds 95% of all rounds, and is no wider than 1.2 times the
  spread of the stored rates that decide it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import OUT, Case, Record, drawn_model, parser, probed_machine, remove, smollm2, whisper
from counting import Shape, seen_positions, weight_bytes
from driven import Driven
from texts import shipped_text

from pintpot import api
from pintpot.contract.step import Step
from pintpot.errors import PintpotError, need
from pintpot.formats import encoding
from pintpot.machine.spec import Machine, Rate
from pintpot.meter.memory import attainable_bytes
from pintpot.packer.manifest import read_manifest
from pintpot.packer.raw import WEIGHTS
from pintpot.planner.assess import assess, reprice
from pintpot.planner.cost import StageCost
from pintpot.planner.defaults import make_budget
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.techniques import classes
from pintpot.units import parse_bytes

PROMPT, OUTPUT = 128, 32
WITHIN, CASES_WITHIN = 0.12, 0.9
HELD_SHARE, WIDER = 0.95, 1.2
EXACT = 0.01
DISK_SECONDS = 0.3
STAGES = ("prefill", "decode")


@dataclass(frozen=True)
class Setting:
    """One case: a model, its budget, and the steps of its plan (none: those that the planner chooses)."""

    what: str
    model: str
    memory: str
    context: int = 512
    steps: tuple[tuple[str, dict[str, Any]], ...] = ()

    def path(self) -> Path:
        shape, _, dtype = self.model.partition(" ")
        return drawn_model(shape, dtype) if dtype else smollm2()


def _rounded(bits: int, minimum: bool, planes: int = 1) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Blocks rounded, the vocabulary as it is, and rows in so many int8 planes (0: float32)."""
    rows = (("Int8Activations", {"prefill": planes, "decode": planes}),) if planes else ()
    return (
        ("RoundToNearest", {"target": "blocks", "bits": bits, "minimum": minimum}),
        ("AsStored", {"target": "vocabulary"}),
        ("PrefillChunk", {"tokens": 128}),
        *rows,
    )


_STORED = (("AsStored", {"target": "blocks"}), ("AsStored", {"target": "vocabulary"}))
SETTINGS = (
    Setting("SmolLM2, comfortable", "smollm2", "1GB"),
    Setting("SmolLM2, context 2048", "smollm2", "1GB", 2048),
    Setting("SmolLM2, 150 MB", "smollm2", "150MB"),
    Setting("SmolLM2, 120 MB", "smollm2", "120MB"),
    Setting("SmolLM2, 100 MB", "smollm2", "100MB"),
    Setting("SmolLM2, 150 MB, context 2048", "smollm2", "150MB", 2048),
    Setting("SmolLM2, 3 bits", "smollm2", "1GB", 512, _rounded(3, False)),
    Setting("SmolLM2, 3 bits and minimum", "smollm2", "1GB", 512, _rounded(3, True)),
    Setting("SmolLM2, 2 bits", "smollm2", "1GB", 512, _rounded(2, False)),
    Setting("SmolLM2, two planes", "smollm2", "1GB", 512, (*_STORED, *_rounded(4, False, 2)[2:])),
    Setting("SmolLM2, float rows", "smollm2", "1GB", 512, (*_STORED, ("PrefillChunk", {"tokens": 128}))),
    Setting("0.5B, 4 bits", "0.5b q4_0", "2GB"),
    Setting("0.5B, 8 bits, 450 MB", "0.5b q8_0", "450MB"),
    Setting("0.5B, float16", "0.5b f16", "2GB"),
    Setting("1.5B, 4 bits, superblocks", "1.5b q4_k", "2GB"),
    Setting("1.5B, 4 bits, 700 MB", "1.5b q4_0", "700MB"),
    Setting("1.5B, 6 bits, superblocks, 1 GB", "1.5b q6_k", "1GB"),
)
QUICK = ("SmolLM2, comfortable", "SmolLM2, 120 MB", "SmolLM2, 3 bits")


def make_plan(setting: Setting, machine: Machine) -> tuple[Any, Plan]:
    """The described model and its plan."""
    model = api.describe(setting.path())
    asked = {"context": setting.context, "prompt": PROMPT, "output": OUTPUT}
    if not setting.steps:
        return model, api.plan(model, machine=machine, memory=setting.memory, **asked)
    limits = {"memory_bytes": parse_bytes(setting.memory), "degradation": 100.0, "below_4_bits": True}
    budget = make_budget(model, machine, attainable_bytes(), **asked, **limits)
    steps: list[Step] = [classes()[name](**knobs) for name, knobs in setting.steps]
    return model, assess(Question(model, machine, budget, shipped_priors()), steps)


def measure(setting: Setting, machine: Machine, rounds: int) -> Case:
    """Plan, pack, and then in turn: the machine's rates, direct reads, and the workload."""
    model, plan = make_plan(setting, machine)
    folder = OUT / "packs" / "promises"
    if folder.exists():
        remove(folder)
    api.pack(model, plan, folder)
    manifest, _ = read_manifest(folder)
    formats = sorted({form.format for form in plan.form.weights if form.is_matrix} | {"f32"})
    passing = manifest.slots[: manifest.num_passing]
    with ExitStack() as stack:
        pack = stack.enter_context(Driven("pack", str(folder)))
        rates = stack.enter_context(Driven("rates", str(plan.threads), ",".join(formats)))
        disk = stack.enter_context(Driven("disk", str(folder / WEIGHTS)))

        def sample() -> list[dict[str, Any]]:
            found = []
            ring = plan.form.ring
            if ring is not None and passing:
                region = {"offset": passing[0][0], "num_bytes": sum(slot.num_bytes for _, _, slot in passing)}
                knobs = {"block": ring.slot_bytes, "in_flight": ring.in_flight, "seconds": DISK_SECONDS}
                speed = disk.ask("read", **region, **knobs)["rate"]
                found.append({"what": "disk", "threads": ring.in_flight, "size": ring.slot_bytes, "rate": speed})
            # Last, so that the processor does not come to the run from a rest: it needs a while to its full clock.
            return [*rates.ask("sample"), *found]

        _run(pack)
        samples, runs = [sample()], []
        for index in range(rounds):
            whisper(f"  round {index + 1} of {rounds}")
            runs.append(_run(pack))
            samples.append(sample())
        answers = {tuple(run.pop("tokens")) for run in runs}
        need(len(answers) == 1, f"{setting.what}: one question, {len(answers)} answers", PintpotError)
    ram, streamed = weight_bytes(folder, manifest)
    remove(folder)
    return {
        "plan": plan.to_json(), "samples": samples, "runs": runs, "weight_bytes": ram, "streamed_bytes": streamed,
        "stored": machine.to_json(),
    }  # fmt: skip


def _run(pack: Driven) -> Case:
    """The workload of the plan, once."""
    begun = pack.ask("start", text=shipped_text(), prompt=PROMPT, output=OUTPUT)
    steps = pack.ask("steps", number=OUTPUT - 1)
    return {
        "prefill_s": begun["prompt_s"],
        "decode_s": statistics.mean(steps["step_s"]) * OUTPUT,
        "prefill_read": begun["read_bytes"],
        "decode_read": steps["read_bytes"] / (OUTPUT - 1),
        "tokens": [begun["token"], *steps["tokens"]],
    }


def recomputed(case: Case, plan: Plan, model: Any) -> list[dict[str, float]]:
    """Seconds of each stage for each round, from the rates before and after it."""
    stored, found = Machine.from_json(case["stored"]), []
    for before, after in zip(case["samples"], case["samples"][1:], strict=False):
        rates = tuple(_rate(one, other) for one, other in zip(before, after, strict=True))
        question = Question(model, replace(stored, rates=rates), plan.budget, shipped_priors())
        cost = reprice(plan, question).cost
        found.append({stage: cost.stage(stage).seconds.mid for stage in STAGES})
    return found


def _rate(one: dict[str, Any], other: dict[str, Any]) -> Rate:
    # Seconds add up, so it is the seconds of a unit that are averaged.
    speed = 2 / (1 / one["rate"] + 1 / other["rate"])
    return Rate(one["what"], speed, speed, speed, one["threads"], one["size"])


def counts(case: Case, plan: Plan) -> Iterator[tuple[str, float, float]]:
    """(what, promised, counted) of a token of the answer, and of the whole prompt."""
    shape, form = Shape.of(plan.config), plan.form
    decode, prefill = plan.cost.stage("decode"), plan.cost.stage("prefill")
    window, sinks = form.cache.window or plan.config.get("sliding_window") or 0, form.cache.sinks
    positions = seen_positions(PROMPT, OUTPUT - 1, window, sinks) / (OUTPUT - 1)
    cache = shape.cache_bytes(positions + 1, form.cache.format)
    ram = case["weight_bytes"] + cache + shape.activation_bytes()
    yield "RAM bytes", decode.ram_bytes / decode.replays, ram
    yield "multiply-adds", decode.multiply_adds / decode.replays, shape.multiply_adds(1, 1, positions)
    prompt = shape.multiply_adds(PROMPT, 1, seen_positions(0, PROMPT, window, sinks))
    yield "prompt's multiply-adds", prefill.multiply_adds, prompt
    if case["streamed_bytes"]:
        for stage, what in ((decode, "disk bytes"), (prefill, "prompt's disk bytes")):
            each = stage.replays if stage is decode else 1
            read = statistics.median(run[f"{stage.name}_read"] for run in case["runs"])
            yield what, stage.disk_bytes / each, read


def stored_spread(case: Case, plan: Plan, stage: StageCost) -> float:
    """The widest high over low of the stored rates of a stage's lanes: any may be the longest at one end of a range."""
    machine, form, ring = Machine.from_json(case["stored"]), plan.form, plan.form.ring
    how = form.activation.prefill if stage.name == "prefill" else form.activation.decode
    rows = {"float32": "x0", "int8x2": "x2"}.get(how, "")
    formats = {weight.format for weight in form.weights if weight.is_matrix}
    names = {name if encoding(name).kind == "float" else name + rows for name in formats}
    product, size = ("matvec", form.weight_bytes) if stage.name == "decode" else ("matmul", form.chunk)
    rates = [machine.rate(f"{product}/{name}", threads=plan.threads, size=size) for name in sorted(names)]
    rates.append(machine.rate("read", threads=plan.threads, size=plan.form.weight_bytes))
    if ring is not None:
        rates.append(machine.rate("disk", threads=ring.in_flight, size=ring.slot_bytes))
    return max(rate.high / rate.low for rate in rates if rate is not None)


def show(record: Record, cases: list[tuple[Setting, Case]]) -> None:
    """The tables and the verdicts."""
    worst, ratios, held, wide = 0.0, [], [], []
    count_rows, speed_rows = [], []
    for setting, case in cases:
        plan = Plan.from_json(case["plan"])
        for what, promised, counted in counts(case, plan):
            apart = promised / counted - 1
            worst = max(worst, abs(apart), key=abs)
            count_rows.append((setting.what, what, f"{promised:.5g}", f"{counted:.5g}", f"{apart:+.2%}"))
        seconds = recomputed(case, plan, api.describe(setting.path()))
        for name in STAGES:
            stage = plan.cost.stage(name)
            seen = [run[f"{name}_s"] for run in case["runs"]]
            each = [one / other[name] for one, other in zip(seen, seconds, strict=True)]
            ratios.append(statistics.median(each))
            inside = [stage.seconds.low <= one <= stage.seconds.high for one in seen]
            held += inside
            width, spread = stage.seconds.high / stage.seconds.low, stored_spread(case, plan, stage)
            wide.append((width <= WIDER * spread, f"{setting.what}, {name}"))
            speed_rows.append((
                setting.what, name, stage.binds, f"{1e3 * statistics.median(seen):.1f}", f"{ratios[-1]:.3f}",
                f"{min(each):.2f} to {max(each):.2f}", f"{1e3 * stage.seconds.low:.1f}",
                f"{1e3 * stage.seconds.high:.1f}", f"{sum(inside)} of {len(inside)}", f"{width:.2f}", f"{spread:.2f}",
            ))  # fmt: skip
    record.say("Counts: of one token of the answer, and of a whole prompt")
    record.table(("case", "what", "promised", "counted", "apart"), count_rows, left=2)
    record.say("\nSeconds (milliseconds of the whole prompt and of the whole answer)")
    columns = ["case", "stage", "binds", "measured", "/ recomputed", "rounds", "low", "high", "inside", "width"]
    columns.append("spread")
    record.table(columns, speed_rows, left=3)
    record.say()
    record.verdict("counts", f"{worst:+.2%} at worst", f"{EXACT:.0%}", abs(worst) <= EXACT)
    near = sum(abs(ratio - 1) <= WITHIN for ratio in ratios) / len(ratios)
    record.verdict(
        f"recomputed seconds within {WITHIN:.0%}", f"{near:.0%} of cases", f"{CASES_WITHIN:.0%}", near >= CASES_WITHIN
    )
    share = sum(held) / len(held)
    record.verdict("rounds inside the promised range", f"{share:.1%}", f"{HELD_SHARE:.0%}", share >= HELD_SHARE)
    too_wide = [what for fine, what in wide if not fine]
    text = f"{len(wide) - len(too_wide)} of {len(wide)} cases"
    record.verdict(f"range no wider than {WIDER:g} times the spread", text, "all", not too_wide)


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--only", default="", help="cases with this text in their name")
    options.add_argument("--quick", action="store_true", help="three cases of SmolLM2")
    asked = options.parse_args()
    machine = probed_machine()
    record = Record("promises-quick" if asked.quick else "promises", fresh=asked.fresh)
    chosen = [one for one in SETTINGS if asked.only in one.what and (not asked.quick or one.what in QUICK)]
    cases = [(one, record.case(one.what, partial(measure, one, machine, asked.rounds))) for one in chosen]
    for one, case in cases:
        steps = [json.dumps({k: v for k, v in step.items() if k != "name"}) for step in case["plan"]["steps"]]
        names = [step["name"] for step in case["plan"]["steps"]]
        record.say(f"{one.what}: {', '.join(f'{n} {s}' for n, s in zip(names, steps, strict=True))}")
    record.say()
    show(record, cases)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
