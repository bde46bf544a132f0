"""Learning SmolLM2 beside a plain loop of transformers: the same losses first, then speed and memory.

    python benchmarks/tuning.py                             # 50 steps of 4 x 256 tokens, LoRA r=8 on q and v
    python benchmarks/tuning.py --steps 10 --fresh          # speed and memory alone are told sooner
    python benchmarks/tuning.py --kinds bf16 --memory-of-qlora 1GB
    python benchmarks/tuning.py --kinds bf16 --model-of-qlora FOLDER     # its weights are rounded to 4 bits first
    python benchmarks/tuning.py --kinds bf16 --targets q,k,v,o,gate,up,down    # adapters beside all seven matrices

QLoRA learns in the smallest budget that it can, or in the one that is named: what is asked of it is LoRA's perplexity
on held-out text, within 2%, at less than half of LoRA's peak. The weights are those of the file, which has them in 4
bits already; a folder of the same model in floats whose weights lie on no grid (`python benchmarks/off_grid.py --mixing
pairs --gains kept --dtype bf16`) shows what rounding by what the examples are costs, with codes of 4 bits or of
`--bits-of-qlora`. Of both kinds, QLoRA in bfloat16 is set beside LoRA in float32, too: the model as its values are,
where nothing is given up for memory.

The text is prose of the English Wikipedia. Both begin with the same adapters, take the same sequences in the same order
and step by AdamW at a constant rate. The loop: weights dequantized by the `gguf` package, the network of transformers
with its own attention, adapters beside q and v by hand, PyTorch's AdamW; in float32, and with weights in bfloat16.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from math import exp
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from bench import OUT, Case, Record, cli, parser, smollm2
from texts import wikipedia_paragraphs

LENGTH, SEQUENCES, RANK, ALPHA, RATE = 256, 4, 8, 16.0, 5e-4
APART = 0.01
"""How far losses may lie apart, of themselves."""
FASTER, SMALLER = 1.2, 0.5
WITHIN, HALF = 1.02, 0.5
"""QLoRA's perplexity over LoRA's on held-out text, and its peak."""
KINDS, METHODS = ("float32", "bf16"), ("lora", "qlora")


@dataclass(frozen=True)
class Of:
    """A model, the file of SmolLM2 where none is named, the bits to which qlora rounds it if it has more, and beside
    which matrices adapters learn."""

    model: str = ""
    bits: int = 4
    targets: str = "q,v"

    def __str__(self) -> str:
        rounded = f" {Path(self.model).name} {self.bits} bits" if self.model else ""
        return rounded + (f" {self.targets}" if self.targets != Of.targets else "")


OWN = Of()


def examples(paragraphs: int = 360) -> Path:
    """One long text, so that every sequence is one example and full."""
    path = OUT / f"tuning-{paragraphs}.jsonl"
    path.write_text(json.dumps({"text": "\n\n".join(wikipedia_paragraphs(paragraphs))}) + "\n")
    return path


def command_of(arithmetic: str, steps: int, data: Path, method: str, memory: str, of: Of = OWN) -> list[str]:
    """`pintpot tune`, into a folder of its own."""
    folder = OUT / f"tuned-{method}-{arithmetic}-{memory}-{time.time_ns()}"
    return cli(
        "tune", of.model or str(smollm2()), str(data), "-o", str(folder), "--memory", memory, "--method", method,
        "--bits", str(of.bits), "--steps", str(steps), "--length", str(LENGTH), "--sequences", str(SEQUENCES),
        "--rank", str(RANK), "--alpha", str(ALPHA), "--targets", of.targets, "--arithmetic", arithmetic,
        "--learning-rate", str(RATE), "--schedule", "constant", "--warmup", "0", "--threads", "2", "--json",
    )  # fmt: skip


def smallest(arithmetic: str, steps: int, data: Path, method: str, of: Of = OWN) -> str:
    """The smallest budget, as the refusal of one that is too small says it."""
    refused = subprocess.run(command_of(arithmetic, steps, data, method, "1MB", of), stdout=subprocess.PIPE)
    found = re.search(r"needs ([\d.]+) (\wB) at least", refused.stdout.decode())
    if found is None:
        raise RuntimeError(f"{method} was not refused: {refused.stdout[:200]!r}")
    return found[1] + found[2]


def ours(arithmetic: str, steps: int, data: Path, method: str, memory: str, of: Of = OWN) -> Case:
    """It in a process of its own."""
    memory = memory or smallest(arithmetic, steps, data, method, of)
    command = command_of(arithmetic, steps, data, method, memory, of)
    done = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    measured, promised = done["measured"], done["promised"]
    return {
        "losses": done["losses"], "asked": done["asked"], "tokens_per_s": measured["tokens_per_s"],
        "peak_bytes": measured["peak_bytes"], "step_s": measured["step_s"],
        "promised_bytes": promised["memory_bytes"][1], "promised_step_s": promised["step_s"],
    }  # fmt: skip


def theirs(arithmetic: str, steps: int, data: Path, targets: str) -> Case:
    """This file again, as the process of the plain loop."""
    command = [sys.executable, __file__, "--loop", arithmetic, "--steps", str(steps), "--data", str(data)]
    command += ["--targets", targets]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]))


def loop(arithmetic: str, steps: int, data: Path, targets: str) -> Case:
    """The plain loop."""
    import torch
    from learning import Adapted
    from test_equal_tokens import SMOLLM2
    from tiny import torch_model_of_gguf

    from pintpot.contract.form import source_form
    from pintpot.kernels.torch.adam import BETAS, EPS
    from pintpot.meter.memory import peak_bytes
    from pintpot.model.read import describe
    from pintpot.techniques.adapt.low_rank import LowRank
    from pintpot.trainer.learned import Learned
    from pintpot.trainer.packing import Order
    from pintpot.trainer.reading import read_sequences

    torch.set_num_threads(2)
    described = describe(str(smollm2()))
    form = LowRank(rank=RANK, alpha=ALPHA, roles=targets).promise(source_form(described))
    learns, _ = read_sequences(described, data, LENGTH, seed=0)
    order = Order(len(learns), SEQUENCES, seed=0)
    model = torch_model_of_gguf(smollm2(), SMOLLM2)
    model.set_attn_implementation("sdpa")
    if arithmetic == "bf16":
        model.to(torch.bfloat16)
    adapted = Adapted(model, Learned.adapters(form, seed=0).values, ALPHA / RANK)
    optimizer = torch.optim.AdamW(list(adapted.parameters.values()), lr=RATE, betas=BETAS, eps=EPS, weight_decay=0.0)
    losses, seconds = [], []
    for step in range(steps):
        started = time.perf_counter()
        loss = adapted.losses(learns.take(order.rows(step))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
    return {
        "losses": losses, "step_s": median(seconds), "peak_bytes": peak_bytes(),
        "tokens_per_s": steps * SEQUENCES * LENGTH / sum(seconds),
    }  # fmt: skip


def judge(record: Record, kind: str, one: Case, other: Case) -> None:
    """Losses first; speed and memory only where they agree."""
    apart = max(abs(a - b) / b for a, b in zip(one["losses"], other["losses"], strict=True))
    record.verdict(f"{kind}: losses apart at most", f"{apart:.2%}", f"{APART:.0%}", apart <= APART)
    (_, before), *_, (_, after) = one["asked"]
    record.verdict(f"{kind}: loss on held-out text", f"{before:.4f} -> {after:.4f}", "falls", after < before)
    if apart > APART:
        return
    speed, peak = one["tokens_per_s"] / other["tokens_per_s"], one["peak_bytes"] / other["peak_bytes"]
    record.verdict(f"{kind}: speed over the loop's", f"{speed:.2f}", f"{FASTER}", speed >= FASTER)
    record.verdict(f"{kind}: peak over the loop's", f"{peak:.2f}", f"{SMALLER}", peak <= SMALLER)


def in_half(record: Record, kind: str, one: Case, other: Case) -> None:
    """QLoRA beside LoRA."""
    nats = one["asked"][-1][1] - other["asked"][-1][1]
    worse, peak = exp(nats), one["peak_bytes"] / other["peak_bytes"]
    record.verdict(f"qlora {kind}: perplexity over LoRA's, held out", f"{worse:.4f}", f"{WITHIN}", worse <= WITHIN)
    record.verdict(f"qlora {kind}: peak over LoRA's", f"{peak:.2f}", f"under {HALF}", peak < HALF)


def kept(record: Record, what: str, one: Case) -> None:
    """Promised beside measured."""
    low, high = one["promised_step_s"]
    peak, most = one["peak_bytes"] / 1e6, one["promised_bytes"] / 1e6
    record.verdict(f"{what}: peak", f"{peak:.0f} MB", f"at most {most:.0f} MB", peak <= most)
    inside = low <= one["step_s"] <= high
    record.verdict(f"{what}: a step", f"{one['step_s']:.2f} s", f"{low:.2f} to {high:.2f} s", inside)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=50)
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options.add_argument("--memory", default="2GB")
    options.add_argument("--memory-of-qlora", default="", help="[the smallest that it can do with]")
    options.add_argument("--model-of-qlora", default="", help="[the file of SmolLM2]")
    options.add_argument("--bits-of-qlora", type=int, default=4, help="to which a model of more bits is rounded")
    options.add_argument("--targets", default=OWN.targets, help="beside which adapters learn, of q,k,v,o,gate,up,down")
    options.add_argument("--loop", choices=KINDS, help="the plain loop alone, for its own process")
    options.add_argument("--data", type=Path)
    given = options.parse_args()
    if given.loop:
        print(json.dumps(loop(given.loop, given.steps, given.data, given.targets)))
        return 0
    record = Record("tuning", fresh=given.fresh)
    data, rows, all_found = examples(), [], dict[str, dict[str, Any]]()
    for kind in given.kinds:
        found: dict[str, Any] = {
            "transformers": record.case(
                f"transformers {kind} {given.steps}{Of(targets=given.targets)}",
                lambda kind=kind: theirs(kind, given.steps, data, given.targets),
            )
        }
        for method in given.methods:
            memory = given.memory_of_qlora if method == "qlora" else given.memory
            chosen = (given.model_of_qlora, given.bits_of_qlora) if method == "qlora" else (OWN.model, OWN.bits)
            of = Of(*chosen, given.targets)
            key = f"{method} {kind} {given.steps} {memory or 'smallest'}{of}"
            run = kind, given.steps, data, method, memory, of
            found[method] = record.case(key, lambda run=run: ours(*run))
        for name, case in found.items():
            rows.append((f"{name}, {kind}", f"{case['tokens_per_s']:.0f}", f"{case['peak_bytes'] / 1e6:.0f}"))
        if "lora" in found:
            judge(record, kind, found["lora"], found["transformers"])
        if {"lora", "qlora"} <= set(found):
            in_half(record, kind, found["qlora"], found["lora"])
        for method in given.methods:
            kept(record, f"{method} {kind}", found[method])
        all_found[kind] = found
    if set(given.methods) == set(METHODS) and set(all_found) == set(KINDS):
        in_half(record, "bf16 beside float32", all_found["bf16"]["qlora"], all_found["float32"]["lora"])
    record.say()
    record.table(("what", "tokens/s", "peak, MB"), rows)
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
