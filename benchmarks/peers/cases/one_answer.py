"""One question at a time: reading a prompt and writing the answer, at several sizes and depths of context."""

from __future__ import annotations

from contest import Contest
from verdicts import Wanted

ORDER = 1

CASES = (
    Contest(
        "SmolLM2, 512 in, 128 out", "smollm2", 512, 128, quick=True,
        wanted=(
            Wanted("decode", 2.0), Wanted("decode", 3.0, "llama.cpp, as is"), Wanted("decode", 0.6, "the limit"),
            Wanted("prefill", 1.3), Wanted("prefill", 0.65, "the floor"),
        ),
    ),
    Contest(
        "0.5B, 512 in, 128 out", "0.5b q4_0", 512, 128, rounds=12, quick=True,
        wanted=(
            Wanted("decode", 1.6), Wanted("decode", 0.85, "the limit"), Wanted("prefill", 1.15),
            Wanted("prefill", 0.65, "the floor"),
        ),
    ),
    Contest(
        "1.5B, 512 in, 128 out", "1.5b q4_0", 512, 128, rounds=9,
        wanted=(
            Wanted("decode", 1.0), Wanted("decode", 1.3, ram_over=50e9), Wanted("decode", 0.9, "the limit"),
            Wanted("prefill", 1.15), Wanted("prefill", 0.65, "the floor"),
        ),
    ),
    Contest(
        "8B, 128 in, 32 out", "8b q4_0", 128, 32, rounds=5, together=False,
        wanted=(Wanted("decode", 1.0), Wanted("decode", 1.3, ram_over=50e9), Wanted("decode", 0.9, "the limit")),
    ),
    Contest(
        "SmolLM2, 4,096 in, 64 out", "smollm2", 4096, 64, rounds=7,
        wanted=(Wanted("decode", 2.0), Wanted("decode", 0.6, "the limit"), Wanted("prefill", 1.3)),
    ),
    Contest(
        "SmolLM2, 4,096 in, 64 out, 8-bit cache", "smollm2", 4096, 64, "8 bits", rounds=7,
        wanted=(Wanted("decode", 2.0), Wanted("decode", 0.6, "the limit"), Wanted("prefill", 1.3)),
    ),
    Contest(
        "0.5B, 4,096 in, 64 out", "0.5b q4_0", 4096, 64, rounds=5,
        wanted=(Wanted("decode", 1.6), Wanted("decode", 0.85, "the limit"), Wanted("prefill", 1.15)),
    ),
    Contest(
        "0.5B, 4,096 in, 64 out, 8-bit cache", "0.5b q4_0", 4096, 64, "8 bits", rounds=5,
        wanted=(Wanted("decode", 1.6), Wanted("decode", 0.85, "the limit"), Wanted("prefill", 1.15)),
    ),
)  # fmt: skip
