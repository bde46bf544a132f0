"""What rotating costs: the same weights with and without a step that rotates, prompts and answers taking turns.

    python benchmarks/rotating.py [MODEL] [--sizes 32,512] [--bits 4] [--prompt 512] [--rounds 21] [--threads 2]

MODEL is a file or a folder, SmolLM2's own file by default. Each pack runs in a process of its own; of every round the
seconds of a prompt and of a step of its answer are divided by those of the pack without rotation in the same round.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from bench import OUT, Case, Record, parser, remove, smollm2
from driven import Driven
from texts import shipped_text

from pintpot import api
from pintpot.budget import Budget, Workload
from pintpot.contract.step import Step
from pintpot.machine.null import null_machine
from pintpot.planner.assess import assess
from pintpot.planner.degradation import Priors
from pintpot.planner.question import Question
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.block_rotation import BlockRotation
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.quarot import QuaRot
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

OUTPUT = 32
MEMORY_BYTES = 6_000_000_000


def make_pack(name: str, steps: tuple[Step, ...], asked: Any) -> Path:
    """The model with the blocks in few bits, and with these steps."""
    model = api.describe(asked.model or smollm2())
    common = (
        RoundToNearest("blocks", asked.bits),
        AsStored("vocabulary"),
        Int8Activations(),
        PrefillChunk(tokens=256),
    )
    workload = Workload(context=asked.prompt + 2 * OUTPUT, batch=1, prompt=asked.prompt, output=OUTPUT)
    budget = Budget(MEMORY_BYTES, workload, degradation=1e9, threads=asked.threads, below_4_bits=True)
    plan = assess(Question(model, null_machine(), budget, Priors({})), (*common, *steps))
    folder = OUT / "packs" / f"rotating-{name}"
    if folder.exists():
        remove(folder)
    return api.pack(model, plan, folder)


def sample(pack: Driven, asked: Any) -> tuple[float, float]:
    """Seconds of a prompt, and of a step of its answer."""
    begun = pack.ask("start", text=shipped_text(), prompt=asked.prompt, output=OUTPUT)
    return begun["prompt_s"], statistics.median(pack.ask("steps", number=OUTPUT - 1)["step_s"])


def measure(name: str, step: Step, asked: Any) -> Case:
    """Seconds of both packs, round by round."""
    folders = [make_pack("plain", (), asked), make_pack(name, (step,), asked)]
    plain: list[tuple[float, float]] = []
    rotated: list[tuple[float, float]] = []
    with Driven("pack", str(folders[0])) as one, Driven("pack", str(folders[1])) as other:
        for pack in (one, other):
            sample(pack, asked)
        for number in range(asked.rounds):
            for pack, found in ((one, plain), (other, rotated))[:: 1 if number % 2 else -1]:
                found.append(sample(pack, asked))
    for folder in folders:
        remove(folder)
    return {"plain": plain, "rotated": rotated}


def main() -> int:
    """Parse the command line and run."""
    options = parser(__doc__)
    options.add_argument("model", nargs="?")
    options.add_argument("--sizes", default="32,512", help="of the blocks")
    options.add_argument("--bits", type=int, default=4)
    options.add_argument("--prompt", type=int, default=512)
    options.add_argument("--rounds", type=int, default=21)
    options.add_argument("--threads", type=int, default=2)
    asked = options.parse_args()
    record = Record("rotating", fresh=asked.fresh)
    ways: dict[str, Step] = {f"blocks of {size}": BlockRotation(size=int(size)) for size in asked.sizes.split(",")}
    ways["heads and down"] = QuaRot("blocks", stream=False)
    rows = []
    for name, step in ways.items():
        case = record.case(f"{name}, {asked.bits} bits", partial(measure, name.replace(" ", "-"), step, asked))
        pairs = list(zip(case["plain"], case["rotated"], strict=True))
        for at, what in enumerate(("prompt", "step")):
            ratios = sorted(other[at] / one[at] for one, other in pairs)
            best = min(one[at] for one, _ in pairs), min(other[at] for _, other in pairs)
            rows.append([
                name, what, f"{statistics.median(ratios):.3f}", f"{best[1] / best[0]:.3f}",
                f"{ratios[len(ratios) // 10]:.3f} to {ratios[-1 - len(ratios) // 10]:.3f}", f"{best[0] * 1e3:.2f}",
            ])  # fmt: skip
    record.table(("rotated", "seconds of a", "median ratio", "of the best", "most", "best ms without"), rows, left=2)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
