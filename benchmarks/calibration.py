"""What calibration gains: KL divergence in float32 arithmetic of rounded blocks from the model they are of.

    python benchmarks/calibration.py MODEL                  # e.g. a model off the grid, benchmarks/off_grid.py
    python benchmarks/calibration.py MODEL --formats sym4,aff3 --text FILE --calibration FILE
    python benchmarks/calibration.py MODEL --every 5        # one block of five is rounded, the others stay floats
    python benchmarks/calibration.py MODEL --roles down --formats q4_k,q6_k    # matrices of 256's multiples alone

Each way of rounding (to nearest, by importance, GPTQ with or without sweeps, AWQ or rotation before) at equal bits, the
matrices of the blocks alone; embedding and head stay as they are. With the seconds that each took, and the floor of
calibration: multiply-adds of one pass and of the moments over the float32 rate of a product measured beside it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench import Case, Record, parser, whisper
from numpy.typing import NDArray

from pintpot.budget import Budget, Workload
from pintpot.contract.form import CacheForm, matches
from pintpot.contract.step import TRANSFORMS, Step
from pintpot.formats import encoding, is_lossless
from pintpot.formats.columns_apart import separated
from pintpot.formats.convert import encode
from pintpot.formats.tiles import unpack
from pintpot.kernels.reference.linear import round_rows
from pintpot.machine.null import null_machine
from pintpot.meter.agreement import TokenScores, compare, mean_interval
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate.activations import Activations
from pintpot.packer.calibrate.blocks import Walk
from pintpot.packer.calibrate.calibrate import preparing
from pintpot.packer.calibrate.chosen import Chosen
from pintpot.packer.calibrate.forward import Forward, Meets
from pintpot.packer.calibrate.modalities import Counting
from pintpot.packer.calibrate.parallel import one_blas_thread, ordered
from pintpot.packer.calibrate.prepared import Prepared
from pintpot.packer.calibrate.prompts import Prompts
from pintpot.packer.calibrate.texts import TOKENS, cut, read_text
from pintpot.packer.pack import tokenizer_of
from pintpot.planner.assess import assess
from pintpot.planner.degradation import Priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.awq import Awq
from pintpot.techniques.quantize.block_rotation import BlockRotation
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.importance import ImportanceRounding
from pintpot.techniques.quantize.mixed import Mixed, write_formats
from pintpot.techniques.quantize.outlier_columns import OutlierColumns
from pintpot.techniques.quantize.quarot import QuaRot
from pintpot.techniques.quantize.rearranged import Rearranged

Floats = NDArray[np.float32]
Columns = NDArray[np.int64]
Texts = list[list[int]]
WAYS: dict[str, tuple[Step, ...]] = {
    "nearest": (),
    "importance": (ImportanceRounding("blocks"),),
    "awq, nearest": (Awq(),),
    "awq, importance": (Awq(), ImportanceRounding("blocks")),
    "gptq": (Gptq("blocks", sweeps=0, correction=0.0),),
    "gptq, 1 sweep": (Gptq("blocks", sweeps=1, correction=0.0),),
    "gptq, 3 sweeps": (Gptq("blocks", sweeps=3, correction=0.0),),
    "gptq, 3 sweeps, corrected": (Gptq("blocks", sweeps=3, correction=1.0),),
    "gptq, 3 sweeps, half corrected": (Gptq("blocks", sweeps=3, correction=0.5),),
    "awq, gptq, 3 sweeps, corrected": (Awq(), Gptq("blocks", sweeps=3, correction=1.0)),
    "awq, gptq, 3 sweeps": (Awq(), Gptq("blocks", sweeps=3, correction=0.0)),
    "rotated by 16, nearest": (BlockRotation(size=16),),
    "rotated by 32, nearest": (BlockRotation(size=32),),
    "rotated by 64, nearest": (BlockRotation(size=64),),
    "rotated by 512, nearest": (BlockRotation(size=512),),
    "rotated by 16, gptq, 3 sweeps": (BlockRotation(size=16), Gptq("blocks")),
    "rotated by 32, gptq, 3 sweeps": (BlockRotation(size=32), Gptq("blocks")),
    "rotated by 64, gptq, 3 sweeps": (BlockRotation(size=64), Gptq("blocks")),
    "rotated by 512, gptq, 3 sweeps": (BlockRotation(size=512), Gptq("blocks")),
    "heads and down rotated, nearest": (QuaRot("blocks", stream=False),),
    "heads and down rotated, gptq, 3 sweeps": (QuaRot("blocks", stream=False), Gptq("blocks")),
    "rearranged, nearest": (Rearranged(),),
    "rearranged, gptq, 3 sweeps": (Rearranged(), Gptq("blocks", sweeps=3, correction=0.0)),
    "2 columns apart, nearest": (OutlierColumns(columns=2),),
    "8 columns apart, nearest": (OutlierColumns(columns=8),),
    "rearranged, 8 columns apart, nearest": (Rearranged(), OutlierColumns(columns=8)),
    "8 columns apart, gptq, 3 sweeps": (OutlierColumns(columns=8), Gptq("blocks", sweeps=3, correction=0.0)),
    "gptq, 3 sweeps, damping 0.3": (Gptq("blocks", damping=0.3),),
}
ROLES = "q,k,v,o,gate,up,down"


class Judge:
    """The source's states of some texts, and how far those of other weights lie from them."""

    def __init__(self, model: Model, texts: Texts, threads: int) -> None:
        self._model, self._texts, self._threads = model, texts, threads
        with Store(model) as store:
            forward = Forward(model, store, max(map(len, texts)))
            self._head = forward.weight(str(forward.head.read("weight")))
        self._states = self.states({})

    def states(self, kept: Mapping[str, Floats], plan: Plan | None = None, meets: Meets | None = None) -> list[Floats]:
        """Normalized states [T, D] of every text, with these weights in place of the source's, as a plan's steps have
        the network compute."""
        with one_blas_thread(), Store(self._model) as store:
            form = None if plan is None else replace(plan.form, cache=CacheForm("f32"))
            steps = () if plan is None else tuple(step for step in plan.steps if step.facet in TRANSFORMS)
            longest = max(map(len, self._texts))
            forward, plain = Forward(self._model, store, longest, form, steps), Forward(self._model, store, longest)
            states = [forward.embedded([text]) for text in self._texts]
            for block, source in zip(forward.blocks, plain.blocks, strict=True):
                block = block if any(name in kept for name in block.weights) else source
                values = {**forward.values(block), **{n: v for n, v in kept.items() if n in block.weights}}

                def after(x: Floats) -> Floats:
                    return forward.run(block, values, x, [len(x)], None, meets)  # noqa: B023

                states = list(ordered(after, states, self._threads))
            return [forward.final(x) for x in states]

    def divergence(self, kept: Mapping[str, Floats], plan: Plan, meets: Meets | None = None) -> Case:
        """Mean over tokens, its interval over texts, 99th percentile, and how often the likeliest word is the same."""
        scores: list[TokenScores] = []
        for ours, theirs in zip(self._states, self.states(kept, plan, meets), strict=True):
            scores.append(compare(ours @ self._head.T, theirs @ self._head.T))
        found, every = mean_interval([one.kl for one in scores], floor=0.0), np.concatenate([s.kl for s in scores])
        p99 = float(np.quantile(every, 0.99))
        same = float(np.concatenate([one.same_top1 for one in scores]).mean())
        return {
            "mean": found.mean,
            "low": found.low,
            "high": found.high,
            "p99": p99,
            "same": same,
        }


def plan_of(
    model: Model, name: str, steps: tuple[Step, ...], threads: int, memory_bytes: int, roles: Container[str]
) -> Plan:
    """The blocks' matrices of these roles in this format, all others as they are stored."""
    formats = {
        w.name: name
        if matches("blocks", w.name) and w.name.rpartition(".")[2] in roles
        else encoding(w.dtype).packed_as
        for w in model.part("language").weights()
        if len(w.shape) == 2
    }
    budget = Budget(
        memory_bytes, Workload(256, prompt=64, output=64), degradation=1e9, threads=threads, below_4_bits=True
    )
    chosen = (Mixed("all", write_formats(formats)), *steps, PrefillChunk(tokens=64))
    return assess(Question(model, null_machine(), budget, Priors({})), chosen)


def nearest(model: Model, plan: Plan) -> dict[str, Floats]:
    """The matrices of the blocks as packing rounds them without calibration."""
    found = {}
    with Store(model) as store:
        forward = Forward(model, store, 32)
        for block in forward.blocks:
            for name, values in forward.values(block).items():
                form = plan.form.weights.by_name[name]
                if form.is_matrix:
                    found[name] = unpack(encode(values, form.format), form.format, form.shape[0], form.shape[1])
    return found


def kept_in(plan: Plan, prepared: Prepared) -> dict[str, Floats]:
    """What calibration made, in float32."""
    found = {}
    for form in plan.form.weights:
        if form.name not in prepared.names:
            continue
        if form.is_matrix:
            strips = prepared.strips(form.name, 0, form.num_strips)
            found[form.name] = unpack(strips, form.format, form.shape[0], form.shape[1])
        else:
            found[form.name] = prepared.vector(form.name)
    return found


def some_blocks(model: Model, plan: Plan, texts: Texts, every: int) -> dict[str, Floats]:
    """What calibration makes of one block of so many, in float32, where all others are floats."""
    chosen, lengths = Chosen.of(plan.form, plan.steps), [len(text) for text in texts]
    form, found, live = replace(plan.form, cache=CacheForm("f32")), dict[str, Floats](), Activations()
    with one_blas_thread(), Store(model) as store:
        forward, plain = (Forward(model, store, max(lengths), *how) for how in ((form, chosen.transforms), ()))
        walk = Walk(forward, chosen, live, Counting({}, Prompts.of(texts)), plan.threads)
        for number, text in enumerate(texts):
            live.put(forward.blocks[0].x, number, forward.embedded([text]))
        for index, (block, source) in enumerate(zip(forward.blocks, plain.blocks, strict=True)):
            if index % every == every // 2:
                for name, made in walk.block(block).items():
                    weight = plan.form.weights.by_name[name]
                    found[name] = unpack(made, weight.format, *weight.shape) if weight.is_matrix else made
                continue
            values = plain.values(source)
            for number, length in enumerate(lengths):
                live.put(source.out, number, plain.run(source, values, live.get(source.x, number), [length]))
                live.drop(source.x, number)
    return found


def apart_in(plan: Plan, prepared: Prepared) -> dict[str, Columns]:
    """Which columns of each matrix calibration kept apart."""
    found = {}
    for form in plan.form.weights:
        if form.is_matrix and encoding(form.format).num_apart:
            strip = prepared.strips(form.name, 0, 1)
            found[form.name] = separated(strip, form.format, min(16, form.shape[0]), form.shape[1])[2]
    return found


def bits_of(plan: Plan) -> float:
    """Bits a weight of those that are rounded, with scales and with columns kept apart."""
    blocks = [form for form in plan.form.weights if form.is_matrix and not is_lossless(form.source, form.format)]
    return 8 * sum(form.num_bytes for form in blocks) / sum(form.shape[0] * form.shape[1] for form in blocks)


def case(model: Model, judge: Judge, plan: Plan, texts: Texts, calibrates: bool, every: int, planes: int) -> Case:
    def told(share: float, what: str) -> None:
        whisper(f"{share:.0%} {what}")

    started = time.monotonic()
    apart: dict[str, Columns] = {}
    if not calibrates:
        whole = nearest(model, plan).items()
        kept = {n: v for n, v in whole if every == 1 or int(n.split(".")[1]) % every == every // 2}
    elif every > 1:
        kept = some_blocks(model, plan, texts, every)
    else:
        with (
            tempfile.TemporaryDirectory() as folder,
            preparing(model, plan, Path(folder) / "pack", texts, told) as made,
        ):
            kept, apart = kept_in(plan, made), apart_in(plan, made)
    seconds = time.monotonic() - started

    def meets(name: str, rows: Floats) -> Floats:
        return round_rows(rows, planes, apart.get(name))

    rounded = judge.divergence(kept, plan, meets)["mean"]
    return {**judge.divergence(kept, plan), "bits": bits_of(plan), "rounded": rounded, "seconds": seconds}


def floor_s(model: Model, num_tokens: int, threads: int) -> tuple[float, float]:
    """The least seconds of one pass and of the moments, and the multiply-adds a second that a product reached."""
    with Store(model) as store:
        forward = Forward(model, store, 32)
        shapes = [forward.weight(n).shape for block in forward.blocks for n in block.weights if forward.is_matrix(n)]
        inputs = [
            forward.weight(op.read_all("weight")[0]).shape[1]
            for block in forward.blocks for op in block.ops if op.kind == "linear"
        ]  # fmt: skip
    work = num_tokens * (sum(n * k for n, k in shapes) + sum(k * k / 2 for k in inputs))
    a, b = np.ones((1024, 1024), np.float32), np.ones((1024, 1024), np.float32)
    with one_blas_thread():
        times = []
        for _ in range(6):
            started = time.monotonic()
            list(ordered(lambda _: a @ b, range(4 * threads), threads))
            times.append(time.monotonic() - started)
    rate = 4 * threads * 1024**3 / min(times)
    return work / rate, rate


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("model")
    options.add_argument("--formats", default="sym4,aff4,sym3,aff3")
    options.add_argument("--ways", default=",".join(str(i) for i in range(len(WAYS))), help="numbers of the ways above")
    options.add_argument("--roles", default=ROLES, help="of the blocks' matrices, what is rounded")
    options.add_argument("--text", type=Path, help="what is compared on; what proofs compare on otherwise")
    options.add_argument("--calibration", type=Path, help="what is calibrated on; the package's own otherwise")
    options.add_argument("--tokens", type=int, default=TOKENS)
    options.add_argument("--every", type=int, default=1, help="only one block of so many is rounded")
    options.add_argument("--texts", type=int, default=8, help="texts of 256 tokens that are compared on")
    options.add_argument("--planes", type=int, default=1, help="int8 planes of rows in the last column but one")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--memory", type=int, default=4_000_000_000, help="bytes that calibration may take")
    asked = options.parse_args()
    model = describe(asked.model)
    record = Record(f"calibration-{model.name}", fresh=asked.fresh)
    source = tokenizer_of(model)
    proofs = Path(__file__).resolve().parent.parent / "src" / "pintpot" / "proof" / "text.txt"
    held_out = cut(source, read_text(asked.text or proofs), 256, 256 * asked.texts, 256)
    texts = cut(source, read_text(asked.calibration), model.context, asked.tokens)
    num_tokens = sum(map(len, texts))
    seconds, rate = floor_s(model, num_tokens, asked.threads)
    record.say(f"calibrated on {num_tokens} tokens, compared on {sum(map(len, held_out))} others")
    record.say(
        f"floor of calibration: {seconds:.0f} s at {rate / 1e9:.0f} G multiply-adds a second, {asked.threads} threads"
    )
    judge = Judge(model, held_out, asked.threads)
    rows, roles = [], asked.roles.split(",")
    chosen = [list(WAYS)[int(number)] for number in asked.ways.split(",")]
    for name in asked.formats.split(","):
        for way in chosen:
            plan = plan_of(model, name, WAYS[way], asked.threads, asked.memory, roles)
            key = f"{name}, {way}, {num_tokens} on {len(held_out)}, one of {asked.every}, {asked.planes} planes"
            key += "" if asked.roles == ROLES else f", {asked.roles} alone"
            found = record.case(
                key,
                lambda: case(model, judge, plan, texts, bool(WAYS[way]), asked.every, asked.planes),  # noqa: B023
            )
            rows.append([name, way, f"{found['bits']:.3f}", f"{found['mean']:.4f}",
                         f"{found['low']:.4f} to {found['high']:.4f}",
                         f"{found['p99']:.3f}", f"{found['same']:.1%}", f"{found['rounded']:.4f}",
                         f"{found['seconds']:.0f}"])  # fmt: skip
            whisper("  ".join(rows[-1]))
    record.table(("format", "rounding", "bits", "nats", "95%", "p99", "same word", "int8 rows", "s"), rows, left=2)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
