"""Prompts whose rows meet low-bit weights in int8 and in bfloat16, side by side, in turn.

    python benchmarks/prompts.py [--prompts 128 512] [--rounds 9] [--threads 2] [--fresh]

SmolLM2's own file and a 0.5B shape in 4 bits, packed as they are, two planes of int8 in answers. Of each round the
seconds of a prompt in int8 rows stand over those in bfloat16; on a processor with AMX 1.3 is wanted, elsewhere tile
products are followed step by step and no figure is. SmolLM2's answers are compared over their first words.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parent / "peers"))

from bench import OUT, Case, Record, code_digest, drawn_model, parser, probed_machine, smollm2
from driven import Driven
from texts import shipped_text

from pintpot import api
from pintpot._native import kernels
from pintpot.errors import PintpotError, need
from pintpot.meter.memory import attainable_bytes
from pintpot.planner.assess import assess
from pintpot.planner.defaults import make_budget
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.question import Question
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.brain_prompts import BrainPrompts
from pintpot.techniques.quantize.int8_activations import Int8Activations

ROWS = {"int8": Int8Activations(), "bfloat16": BrainPrompts()}
OUTPUT, WORDS, WIDEST = 32, 8, 512
WANTED = 1.3


def packed(model: Path, prompt: int, rows: str) -> Path:
    """The folder of a pack of the weights as they are; what an earlier run of the same sources left is used."""
    folder = OUT / "packs" / f"{model.stem}-{prompt}-{rows}-{code_digest()}"
    if folder.exists():
        return folder
    machine, described = probed_machine(), api.describe(model)
    load: dict[str, Any] = {"context": prompt + 2 * OUTPUT, "prompt": prompt, "output": OUTPUT, "degradation": 100.0}
    budget = make_budget(described, machine, attainable_bytes(), **load)
    steps = (AsStored("blocks"), AsStored("vocabulary"), PrefillChunk(tokens=min(WIDEST, prompt)), ROWS[rows])
    folder.parent.mkdir(parents=True, exist_ok=True)
    return api.pack(described, assess(Question(described, machine, budget, shipped_priors()), steps), folder)


def measure(model: Path, prompt: int, trained: bool, asked: Any) -> Case:
    """Seconds of a prompt in each kind of rows, round by round."""
    found: dict[str, list[float]] = {rows: [] for rows in ROWS}
    with ExitStack() as stack:
        folders = {rows: packed(model, prompt, rows) for rows in ROWS}
        packs = {
            rows: stack.enter_context(Driven("pack", str(folder), str(asked.threads)))
            for rows, folder in folders.items()
        }
        for turn in range(asked.rounds + 1):
            words = set()
            for rows in ROWS if turn % 2 else reversed(ROWS):
                begun = packs[rows].ask("start", text=shipped_text(), prompt=prompt, output=OUTPUT)
                went_on = packs[rows].ask("steps", number=WORDS - 1)
                words.add((begun["token"], *went_on["tokens"]))
                if turn:  # the first one touches memory
                    found[rows].append(begun["prompt_s"])
            need(len(words) == 1 or not trained, f"{model.stem}: different words {words}", PintpotError)
    return {"seconds": found}


def main() -> int:
    """Parse the command line, measure, show."""
    options = parser(__doc__)
    options.add_argument("--prompts", type=int, nargs="+", default=[128, 512])
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--threads", type=int, default=2)
    asked = options.parse_args()
    record = Record("prompts", fresh=asked.fresh)
    table, tiles = [], kernels.chosen() == "amx"
    for name, model in (("SmolLM2", smollm2()), ("0.5B", drawn_model("0.5b", "q4_0"))):
        for prompt in asked.prompts:
            key = f"{name}, {prompt} in, {asked.threads} threads, {asked.rounds} rounds"
            found = record.case(key, partial(measure, model, prompt, name == "SmolLM2", asked))["seconds"]
            low, ratio, high = statistics.quantiles(
                [one / other for one, other in zip(found["int8"], found["bfloat16"], strict=True)], n=4
            )
            speeds = [f"{prompt / statistics.median(found[rows]):.0f}" for rows in ROWS]
            table.append((name, str(prompt), *speeds, f"{ratio:.2f}", f"{low:.2f} to {high:.2f}"))
            if tiles:
                record.verdict(f"{name}, {prompt} tokens", f"{ratio:.2f}", f"{WANTED}", ratio >= WANTED)
    record.table(("model", "prompt", *(f"{rows}, tokens/s" for rows in ROWS), "ratio", "quarters"), table)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
