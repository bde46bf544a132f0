"""Packed leaves of adapted modules beside PyTorch's own, in turn: linear layers and convolutions, few rows and many.

    python benchmarks/leaves.py [--quick] [--fresh]

The same modules in 8 and 4 bits, left to PyTorch in float32 ("left": a recording that PyTorch replays), as the plan has
them with room for all of them in float, and through PyTorch's own modules in float32 and bfloat16, with as many threads
each. Answers are compared with float32 before anything is timed. Samples take turns; a ratio is PyTorch's seconds over
ours, of one round, its median with quarters. What is promised: packed is faster, or the plan does not choose it.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import OUT, Record, parser, whisper

sys.path.insert(0, str(Path(__file__).parent / "peers"))

import torch
from quiet import Watch
from torch import nn
from verdicts import Ratio

import pintpot
from pintpot.machine.aten import with_torch
from pintpot.machine.here import this_machine
from pintpot.model.spec import Model
from pintpot.packer.pack import write_pack
from pintpot.planner.assess import assess
from pintpot.planner.defaults import make_budget
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.runtime.module import open_module
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.left_in_float import LeftInFloat
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

ROOM = 4_000_000_000
ROUNDS, SAMPLE_S = 15, 0.2
ALIKE = {"8 bits": 0.999, "4 bits": 0.98, "left": 0.999999, "as planned": 0.98, "float32": 0.999999, "bfloat16": 0.999}
"""The least cosine with the answer in float32."""
CHOSEN = 0.85
"""What is planned gives so much of the speed of the best of these: prices are 7% off, each of two."""
NEAR = 0.95
"""What is planned may be so near to float32 without being called slower."""


@dataclass(frozen=True)
class Shape:
    """A module, and the inputs it is called with."""

    name: str
    make: Callable[[], nn.Module]
    inputs: tuple[int, ...]


def layers(width: int, count: int) -> nn.Module:
    """Pairs of linear layers, as feed-forward networks have them."""
    pairs = [(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(count)]
    return nn.Sequential(*(one for pair in pairs for one in pair))


def pictures(channels: int, count: int) -> nn.Module:
    """Convolutions of 3 by 3 places."""
    pairs = [(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()) for _ in range(count)]
    return nn.Sequential(*(one for pair in pairs for one in pair))


def shapes(quick: bool) -> list[Shape]:
    """Linear layers at 1, 16 and 256 rows, and convolutions over large and small pictures."""
    width, count = (256, 2) if quick else (1024, 8)
    found = [Shape(f"linear, {rows} rows", lambda: layers(width, count), (rows, width)) for rows in (1, 16, 256)]
    for channels, side in ((16, 28),) if quick else ((16, 28), (32, 112), (128, 28), (512, 7)):
        name = f"convolutions, {channels} channels, {side} by {side}"
        found.append(Shape(name, lambda channels=channels: pictures(channels, 4), (1, channels, side, side)))  # type: ignore[misc]
    return found


def steps_of(bits: int) -> tuple[Any, ...]:
    return AsStored("vocabulary"), RoundToNearest("blocks", bits), Int8Activations()


def planned(model: Model, steps: tuple[Any, ...]) -> Plan:
    """The plan of these steps on this machine."""
    machine, torch_bytes = with_torch(this_machine(), True)
    budget = make_budget(model, machine, ROOM, memory_bytes=ROOM, degradation=1000.0)
    return assess(Question(model, machine, budget, shipped_priors(model.kind), torch_bytes=torch_bytes), steps)


def compare(shape: Shape, rounds: int) -> dict[str, Any]:
    """Samples of everybody, in turn: seconds of a call, and others' share of the processor."""
    torch.manual_seed(0)
    module, x = shape.make().eval(), torch.randn(shape.inputs)
    folder = OUT / "leaves" / shape.name.replace(", ", "-").replace(" ", "_")
    model = pintpot.adapt(module, x, folder=folder / "adapted")
    chosen = pintpot.plan(model, memory=ROOM)
    matrices = " ".join(w.name for part in model.parts for w in part.weights() if len(w.shape) == 2)
    left = planned(model, (AsStored(), LeftInFloat(leaves=matrices)))
    plans = {"8 bits": planned(model, steps_of(8)), "4 bits": planned(model, steps_of(4)), "left": left}
    plans["as planned"] = chosen
    half, x_half = shape.make().eval(), x.bfloat16()
    half.load_state_dict(module.state_dict())
    half = half.bfloat16()
    calls: dict[str, Callable[[], torch.Tensor]] = {"float32": lambda: module(x), "bfloat16": lambda: half(x_half)}
    with ExitStack() as closing, torch.inference_mode():
        for name, plan in plans.items():
            session = closing.enter_context(open_module(write_pack(model, plan, folder / name), this_machine()))
            calls[name] = lambda session=session: session(x)  # type: ignore[misc]
        torch.set_num_threads(chosen.threads)
        wanted = module(x).double().flatten()
        alike = {
            name: float(torch.nn.functional.cosine_similarity(call().double().flatten(), wanted, dim=0))
            for name, call in calls.items()
        }
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                samples[name].append(sample(call))
    return {"alike": alike, "samples": samples, "planned": told(chosen)}


def sample(call: Callable[[], torch.Tensor]) -> tuple[float, float]:
    """Seconds of a call over a short while, and others' share of it."""
    count, own = 0, [int(Path("/proc/self").resolve().name)]
    with Watch(own) as watch:
        started = time.perf_counter()
        while (taken := time.perf_counter() - started) < SAMPLE_S:
            call()
            count += 1
    return taken / count, watch.foreign


def told(plan: Plan) -> str:
    """How a plan keeps the weights."""
    left = [f"{len(s.leaves.split())} left in {s.kept}" for s in plan.steps if isinstance(s, LeftInFloat)]
    formats = sorted({weight.format for weight in plan.form.weights if weight.is_matrix})
    return ", ".join([*left, *formats])


def show(record: Record, shape: Shape, found: dict[str, Any]) -> None:
    """The table of one module and its verdicts."""
    samples = found["samples"]
    record.say(f"\n{shape.name}; planned: {found['planned']}")
    rows, ratios = [], {}
    for name, seen in samples.items():
        pairs = [zip(samples[other], seen, strict=True) for other in ("float32", "bfloat16")]
        over = [Ratio.of([(a / b, max(c, d)) for (a, c), (b, d) in pair]) for pair in pairs]
        ratios[name] = over[0]
        middle = statistics.median(seconds for seconds, _ in seen)
        rows.append((name, f"{1e3 * middle:.3f}", str(over[0]), str(over[1]), f"{found['alike'][name]:.6f}"))
    record.table(("", "ms a call", "over float32", "over bfloat16", "cosine"), rows)
    for name, least in ALIKE.items():
        cosine = found["alike"][name]
        record.verdict(f"{shape.name}: {name} gives the answer", f"{cosine:.5f}", f"{least}", cosine >= least)
    ratio = ratios["as planned"]
    record.verdict(f"{shape.name}: the plan is no slower than float32", str(ratio), f"{NEAR}", ratio.middle >= NEAR)
    best = max(ratios[name].middle for name in ("8 bits", "left"))
    share = ratio.middle / best
    told = f"{shape.name}: of what 8 bits, or leaves left in float32, would give, the plan gives"
    record.verdict(told, f"{share:.2f}", f"{CHOSEN}", share >= CHOSEN)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="small modules and three rounds, to see that it runs")
    given = options.parse_args()
    record = Record("leaves", fresh=given.fresh)
    for shape in shapes(given.quick):
        key = f"{shape.name}{' (quick)' if given.quick else ''}"
        whisper(key)
        found = record.case(key, lambda shape=shape: compare(shape, 3 if given.quick else ROUNDS))  # type: ignore[misc]
        show(record, shape, found)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
