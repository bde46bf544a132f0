"""Models larger than their memory, under one real cap for all."""

from __future__ import annotations

from capped import Capped, Faster

ORDER = 4

CASES = (
    Capped(
        "1.1 GB of 4 bits in 0.73 GB", "1.7b q4_1", "streaming 4 bits", 730_000_000, output=12, rounds=7,
        wanted=(Faster("the same weights", "llama.cpp", 2.2),),
    ),
    Capped(
        "3.1 GB of bf16 in 1.5 GB", "1.5b hf", "streaming bf16", 1_500_000_000, output=5, rounds=5,
        wanted=(
            Faster("the same weights", "accelerate", 1.5), Faster("the same weights", "airllm", 4.0),
            Faster("as planned", "airllm", 40.0),
        ),
    ),
)  # fmt: skip
