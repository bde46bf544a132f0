"""Greedy answers to twenty prompts, 64 words each: as transformers draws them, and the same everywhere.

    python benchmarks/equal_tokens.py

SmolLM2 with exact activations against transformers with the same weights, dequantized; with activations in 8 bits, as
they are by default and in one plane, on every instruction set with 1 and 2 threads, and with part of the weights
streamed. A few minutes on 2 cores.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch
from bench import Record, smollm2
from equal_tokens_data import NUM_TOKENS, PROMPTS
from packing import BLOCKS, BY_DEFAULT, EXACT, STREAMED, opened, pack_of
from test_equal_tokens import SMOLLM2, Tokens, greedy, torch_logits
from tiny import torch_model_of_gguf

from pintpot._native import available_isas


def answers(pack: Path, prompts: list[Tokens], isa: str = "", threads: int = 2) -> list[list[int]]:
    with opened(pack, isa=isa, threads=threads) as session:
        return [greedy(session, prompt) for prompt in prompts]


def num_equal(model: Any, prompts: list[Tokens], found: list[list[int]]) -> int:
    """How many of the answers transformers would have given word by word."""
    equal = 0
    for prompt, answer in zip(prompts, found, strict=True):
        logits = torch_logits(model, [[*prompt, *answer]])[0, NUM_TOKENS - 1 : -1]
        equal += answer == logits.argmax(1).tolist()
    return equal


def ways(packs: dict[str, Path], kind: str) -> Iterator[tuple[str, Path, str, int]]:
    for isa in available_isas():
        for threads in (1, 2):
            yield f"{kind} on {isa}, {threads} threads", packs[kind], isa, threads
    yield f"{kind}, 20 MB of each pass streamed", packs[f"{kind}, streamed"], "", 2


def main() -> int:
    record, source = Record("equal_tokens", fresh=True), smollm2()
    some = replace(STREAMED, resident_bytes=76_000_000, slot_bytes=1 << 20)
    with tempfile.TemporaryDirectory(prefix="pintpot-") as folder:
        rows = {"by default": BY_DEFAULT, "one plane": BLOCKS}
        kinds = {"exact": EXACT, **rows, **{f"{name}, streamed": (*steps, some) for name, steps in rows.items()}}
        packs = {name: pack_of(source, Path(folder) / name, steps, threads=2) for name, steps in kinds.items()}
        with opened(packs["exact"]) as session:
            prompts = [tuple(session.tokenizer.encode(text)[:NUM_TOKENS]) for text in PROMPTS]
        torch.set_num_threads(2)
        model = torch_model_of_gguf(source, SMOLLM2)
        equal = num_equal(model, prompts, answers(packs["exact"], prompts))
        wanted = f"{len(prompts)} of {len(prompts)}"
        record.verdict("answers of transformers", f"{equal} of {len(prompts)}", wanted, equal == len(prompts))
        for kind in rows:
            first: list[list[int]] = []
            for name, pack, isa, threads in ways(packs, kind):
                found = answers(pack, prompts, isa, threads)
                first = first or found
                same = sum(one == other for one, other in zip(first, found, strict=True))
                record.verdict(f"the same answers: {name}", f"{same} of {len(prompts)}", wanted, same == len(prompts))
    return record.finish()


if __name__ == "__main__":
    sys.exit(main())
