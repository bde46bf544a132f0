"""Instruction sets side by side: prompts and answers of one pack on each path that this machine can take, in turn.

    python benchmarks/paths.py [--prompt 512] [--rounds 15] [--threads 2] [--fresh]

SmolLM2's own file and a 0.5B shape in 4 bits, rows as they are by default: one plane of int8 in prompts, two in
answers. PINTPOT_ISA forces the path. All draw the same words, which is checked in every round. Of each round the
seconds on a path stand beside those of AVX-512: answers at 0.9 of its speed on AVX2, prompts at 0.35; with AMX answers
at 0.95 and prompts at 1.1 of it; and no figure is wanted of what only old processors take.
"""

from __future__ import annotations

import statistics
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parent / "peers"))

from bench import Case, Record, drawn_model, parser, smollm2
from driven import Driven
from own import pack_as_stored
from texts import shipped_text

from pintpot._native import available_isas
from pintpot.errors import PintpotError, need

FASTEST = "avx512"
OUTPUT = 96
WANTED = {
    "amx": {"answer": 0.95, "prompt": 1.1},
    "avx2": {"answer": 0.9, "prompt": 0.35},
    "avxvnni": {"answer": 0.9, "prompt": 0.35},
}
PLANES = (1, 2)


def sample(pack: Driven, asked: Any) -> dict[str, Any]:
    """Seconds of a prompt and of a word behind it, and the words."""
    begun = pack.ask("start", text=shipped_text(), prompt=asked.prompt, output=OUTPUT)
    went_on = pack.ask("steps", number=OUTPUT - 1)
    words = [begun["token"], *went_on["tokens"]]
    return {"prompt": begun["prompt_s"], "answer": statistics.median(went_on["step_s"]), "words": words}


def measure(model: Path, isas: tuple[str, ...], asked: Any) -> Case:
    """Samples of every path, round by round, each round begun by another one."""
    load: dict[str, Any] = {"context": asked.prompt + 2 * OUTPUT, "prompt": asked.prompt, "output": OUTPUT, "batch": 1}
    folder = pack_as_stored(model, cache="f16", planes=PLANES, **load)
    found: dict[str, list[dict[str, Any]]] = {isa: [] for isa in isas}
    with ExitStack() as stack:
        packs = {isa: stack.enter_context(Driven("pack", str(folder), str(asked.threads), isa=isa)) for isa in isas}
        for pack in packs.values():
            sample(pack, asked)
        for number in range(asked.rounds):
            for at in range(len(isas)):
                isa = isas[(number + at) % len(isas)]
                found[isa].append(sample(packs[isa], asked))
            words = {tuple(samples[-1]["words"]) for samples in found.values()}
            need(len(words) == 1, f"{model.stem}: {len(words)} different answers on {', '.join(isas)}", PintpotError)
    return {"samples": {isa: [{k: one[k] for k in ("prompt", "answer")} for one in found[isa]] for isa in isas}}


def show(record: Record, name: str, found: Case, asked: Any) -> None:
    """A line for each path and kind of work, and what was wanted of it."""
    samples, rows, verdicts = found["samples"], [], []
    for isa in samples:
        for what, tokens in (("answer", 1), ("prompt", asked.prompt)):
            rate = tokens / statistics.median(one[what] for one in samples[isa])
            pairs = zip(samples[FASTEST], samples[isa], strict=True)
            low, ratio, high = statistics.quantiles([fast[what] / one[what] for fast, one in pairs], n=4)
            rows.append((name, isa, what, f"{rate:.0f}", f"{ratio:.2f}", f"{low:.2f} to {high:.2f}"))
            wanted = WANTED.get(isa, {}).get(what)
            if wanted is not None:
                compared = f"{name}: {what} on {isa} beside {FASTEST}"
                verdicts.append((compared, f"{ratio:.2f}", f"{wanted}", ratio >= wanted))
    record.table(("model", "path", "of a", "tokens/s", f"of {FASTEST}", "quarters"), rows, left=3)
    for verdict in verdicts:
        record.verdict(*verdict)
    record.say()


def main() -> int:
    """Parse the command line, measure, show."""
    options = parser(__doc__)
    options.add_argument("--prompt", type=int, default=512)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--threads", type=int, default=2)
    asked = options.parse_args()
    isas = tuple(available_isas())
    need(FASTEST in isas, f"this processor has no {FASTEST} to compare {', '.join(isas)} with", PintpotError)
    record = Record("paths", fresh=asked.fresh)
    for name, model in (("SmolLM2", smollm2()), ("0.5B", drawn_model("0.5b", "q4_0"))):
        key = f"{name}, {asked.prompt} in, {asked.threads} threads, {asked.rounds} rounds"
        show(record, name, record.case(key, partial(measure, model, isas, asked)), asked)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
