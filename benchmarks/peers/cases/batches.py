"""Several questions at once, side by side over one copy of the weights: 64 tokens in and 64 out, each."""

from __future__ import annotations

from contest import Contest
from verdicts import Wanted

ORDER = 2

CASES = (
    Contest("SmolLM2, 4 times 64 in, 64 out", "smollm2", 64, 64, sequences=4, rounds=9),
    Contest(
        "SmolLM2, 16 times 64 in, 64 out", "smollm2", 64, 64, sequences=16, rounds=9, quick=True,
        wanted=(Wanted("load", 2.0, "OpenVINO"), Wanted("load", 2.0)),
    ),
    Contest("0.5B, 16 times 64 in, 64 out", "0.5b q4_0", 64, 64, sequences=16, rounds=5),
)  # fmt: skip
