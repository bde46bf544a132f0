"""Tune: a model learns from a file of texts inside a memory budget, and tells what was promised and measured."""

import json
import tempfile
from pathlib import Path

from smollm2 import model

import pintpot

with tempfile.TemporaryDirectory() as folder:
    data = Path(folder, "examples.jsonl")
    texts = [f"A pint pot of size {number} holds {number} pints and not one more." for number in range(1, 25)]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tuned = pintpot.tune(
        model(), data, output=Path(folder, "learned"), memory="1200MB", steps=2, length=16, sequences=2
    )
    for step, loss in tuned.asked:
        print(f"held-out text after {step} steps: {loss:.3f} nats a word")
    print(f"{tuned.peak_bytes / 1e6:.0f} MB at the peak, {tuned.plan.cost.memory_high / 1e6:.0f} MB were promised")
