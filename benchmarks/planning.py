"""How long a plan takes: a search over the whole space, its reasons and its advice, for deep and for shallow models.

    python benchmarks/planning.py [--rounds N]

Prints the median of the seconds of `make_plan` (headers read, machine known), by the clock and by this process's own
time, for models of 30 and 80 blocks that fit their memory and that stream, without and with a drawn table of
sensitivities, by which each weight gets a format of its own. Rounds after the first find what earlier ones knew of
weights and ops; with `--rounds 1` in a fresh process the first row is a first plan. The targets are 0.2 s
and 0.6 s on a quiet machine, for `pintpot plan` has 0.5 s and 1 s in all.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

from pintpot.budget import Budget, Workload
from pintpot.formats import KERNEL_FORMATS, encoding
from pintpot.machine.null import null_machine
from pintpot.model.spec import Block, Model, Part, Source, TokenizerInfo, Weight
from pintpot.planner.make import make_plan
from pintpot.planner.sensitivity import Sensitivities

TARGETS = {30: 0.2, 80: 0.6}
HIDDEN, FFN, KV, VOCAB = 576, 1536, 192, 49152


def model(num_blocks: int, matrix: str = "q4_1", vocabulary: str = "q8_0") -> Model:
    """SmolLM2's shapes with so many blocks, described and without a file."""

    def weight(name: str, dtype: str, *shape: int) -> Weight:
        return Weight(name, shape, dtype, 0, 0, 0)

    def block(at: str) -> Block:
        shapes = {
            "q": (HIDDEN, HIDDEN), "k": (KV, HIDDEN), "v": (KV, HIDDEN), "o": (HIDDEN, HIDDEN),
            "gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN),
        }  # fmt: skip
        norms = [weight(f"{at}.{name}", "f32", HIDDEN) for name in ("attn_norm", "ffn_norm")]
        return Block(at, tuple(norms + [weight(f"{at}.{name}", matrix, *shape) for name, shape in shapes.items()]))

    embed = Block("embed", (weight("embed", vocabulary, VOCAB, HIDDEN),))
    blocks = tuple(block(f"layers.{index}") for index in range(num_blocks))
    config = {
        "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": num_blocks, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    part = Part("language", "llama", config, (embed, *blocks, Block("head", (weight("norm", "f32", HIDDEN),))))
    source, tokenizer = Source("gguf", "model.gguf", ("model.gguf",)), TokenizerInfo("gpt2", VOCAB, 48900, 1)
    return Model(f"{num_blocks} blocks", "llm", (part,), (("head", "embed"),), 8192, source, tokenizer, "d")


def table_of(described: Model) -> Sensitivities:
    """A loss for each weight in each format, falling four times a bit; some weights lose a hundred times more."""
    draws = random.Random(1)
    weights = {}
    for weight in described.part("language").weights():
        if len(weight.shape) == 2:
            worth = draws.lognormvariate(0, 1.5) / 100
            formats = [name for name in KERNEL_FORMATS if encoding(name).kind in ("sym", "aff")]
            weights[weight.name] = {name: (0.8 * worth * loss(name), 1.2 * worth * loss(name)) for name in formats}
    return Sensitivities(4096, weights)


def loss(name: str) -> float:
    return float(4.0 ** -encoding(name).bits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    machine = null_machine()
    print(f"{'model':<12}{'weights':<10}{'memory':>9}{'table':>8}{'seconds':>10}{'own':>8}{'target':>8}")
    for num_blocks, target in TARGETS.items():
        for matrix in ("q4_1", "bf16"):
            described = model(num_blocks, matrix, "q8_0" if matrix == "q4_1" else matrix)
            for memory in (140_000_000, 4_000_000_000):
                for table in (None, table_of(described)):
                    clock, own = [], []
                    for _ in range(rounds):
                        start, began = time.perf_counter(), time.process_time()
                        make_plan(described, machine, Budget(memory, Workload(512, prompt=128)), sensitivities=table)
                        clock.append(time.perf_counter() - start)
                        own.append(time.process_time() - began)
                    seconds = f"{statistics.median(clock):>10.3f}{statistics.median(own):>8.3f}{target:>8.1f}"
                    known = "yes" if table else "no"
                    print(f"{num_blocks:<3} blocks   {matrix:<10}{memory // 10**6:>6} MB{known:>8}{seconds}")


if __name__ == "__main__":
    main()
