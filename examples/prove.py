"""Prove: promised beside measured, for memory, speed and quality."""

import tempfile
from pathlib import Path

from smollm2 import model

import pintpot

with tempfile.TemporaryDirectory() as scratch:
    folder = pintpot.pack(model(), folder=Path(scratch) / "packed", memory="300MB", context=256, prompt=64, output=16)
    proof = pintpot.prove(folder, runs=1)
    for row in proof.rows:
        measured = "not measured" if row.measured is None else f"{row.measured:.4g}"
        print(f"{row.what}: promised {row.promised_low:.4g} to {row.promised_high:.4g} {row.unit}, {measured}")
    print("every promise held" if proof.holds else "\n".join(proof.shortfalls))
