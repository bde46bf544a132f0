"""What calibration gains: KL divergence in float32 arithmetic of rounded blocks from the model they are of.

    python benchmarks/calibration.py MODEL                  # e.g. a model off the grid, benchmarks/off_grid.py
    python benchmarks/calibration.py MODEL --formats sym4,aff3 --text FILE --calibration FILE

Each way of rounding (to nearest, by importance, GPTQ without and with sweeps, AWQ before either) at equal bits, the
matrices of the blocks alone; embedding and head stay as they are. With the seconds that each took, and the floor of
calibration: multiply-adds of one pass and of the moments over the float32 rate of a product measured beside it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from bench import Case, Record, parser, whisper
from numpy.typing import NDArray

from pintpot.budget import Budget, Workload
from pintpot.contract.step import Step
from pintpot.formats import encoding
from pintpot.formats.convert import encode
from pintpot.formats.tiles import unpack
from pintpot.machine.null import null_machine
from pintpot.meter.agreement import TokenScores, compare, mean_interval
from pintpot.model.read import describe
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.calibrate.calibrate import preparing
from pintpot.packer.calibrate.forward import Forward
from pintpot.packer.calibrate.parallel import one_blas_thread, ordered
from pintpot.packer.calibrate.prepared import Prepared
from pintpot.packer.calibrate.texts import TOKENS, cut, read_text
from pintpot.packer.pack import tokenizer_of
from pintpot.planner.assess import assess
from pintpot.planner.degradation import Priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.awq import Awq
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.importance import ImportanceRounding
from pintpot.techniques.quantize.normal_float import NormalFloat
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

Floats = NDArray[np.float32]
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
}


class Judge:
    """The source's states of some texts, and how far those of other weights lie from them."""

    def __init__(self, model: Model, texts: Texts, threads: int) -> None:
        self._model, self._texts, self._threads = model, texts, threads
        with Store(model) as store:
            forward = Forward(model, store, max(map(len, texts)))
            self._head = forward.weight(str(forward.head.read("weight")))
        self._states = self.states({})

    def states(self, kept: Mapping[str, Floats]) -> list[Floats]:
        """Normalized states [T, D] of every text, with these weights in place of the source's."""
        with one_blas_thread(), Store(self._model) as store:
            forward = Forward(self._model, store, max(map(len, self._texts)))
            states = [forward.embedded([text]) for text in self._texts]
            for block in forward.blocks:
                values = {**forward.values(block), **{n: v for n, v in kept.items() if n in block.weights}}
                states = list(ordered(lambda x: forward.run(block, values, x, [len(x)]), states, self._threads))  # noqa: B023
            return [forward.final(x) for x in states]

    def divergence(self, kept: Mapping[str, Floats]) -> Case:
        """Mean over tokens, its interval over texts, 99th percentile, and how often the likeliest word is the same."""
        scores: list[TokenScores] = []
        for ours, theirs in zip(self._states, self.states(kept), strict=True):
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


def plan_of(model: Model, name: str, steps: tuple[Step, ...], threads: int, memory_bytes: int) -> Plan:
    """Blocks in this format, the vocabulary as it is stored."""
    rounding: Step = (
        NormalFloat("blocks", encoding(name).scale_columns)
        if name.startswith("nf4")
        else (RoundToNearest("blocks", int(name[3:]), name.startswith("aff")))
    )
    budget = Budget(
        memory_bytes, Workload(256, prompt=64, output=64), degradation=1e9, threads=threads, below_4_bits=True
    )
    chosen = (rounding, AsStored("vocabulary"), *steps, PrefillChunk(tokens=64))
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


def case(model: Model, judge: Judge, plan: Plan, texts: Texts, calibrates: bool) -> Case:
    def told(share: float, what: str) -> None:
        whisper(f"{share:.0%} {what}")

    started = time.monotonic()
    if not calibrates:
        kept = nearest(model, plan)
    else:
        with (
            tempfile.TemporaryDirectory() as folder,
            preparing(model, plan, Path(folder) / "pack", texts, told) as made,
        ):
            kept = kept_in(plan, made)
    seconds = time.monotonic() - started
    return {**judge.divergence(kept), "seconds": seconds}


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
    options.add_argument("--text", type=Path, help="what is compared on; what proofs compare on otherwise")
    options.add_argument("--calibration", type=Path, help="what is calibrated on; the package's own otherwise")
    options.add_argument("--tokens", type=int, default=TOKENS)
    options.add_argument("--texts", type=int, default=8, help="texts of 256 tokens that are compared on")
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
    rows = []
    chosen = [list(WAYS)[int(number)] for number in asked.ways.split(",")]
    for name in asked.formats.split(","):
        for way in chosen:
            plan = plan_of(model, name, WAYS[way], asked.threads, asked.memory)
            key = f"{name}, {way}, {num_tokens} on {len(held_out)}"
            found = record.case(key, lambda: case(model, judge, plan, texts, bool(WAYS[way])))  # noqa: B023
            rows.append([name, way, f"{found['mean']:.4f}", f"{found['low']:.4f} to {found['high']:.4f}",
                         f"{found['p99']:.3f}", f"{found['same']:.1%}", f"{found['seconds']:.0f}"])  # fmt: skip
            whisper("  ".join(rows[-1]))
    record.table(("format", "rounding", "nats", "95%", "p99", "same word", "s"), rows, left=2)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
