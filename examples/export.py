"""Export: write a pack as a file that llama.cpp reads, or as a folder that transformers reads."""

import tempfile
from pathlib import Path

from smollm2 import model

import pintpot

with tempfile.TemporaryDirectory() as scratch:
    plan = pintpot.plan(model(), memory="300MB", context=256)
    folder = pintpot.pack(model(), plan, Path(scratch) / "packed")
    for place in ("model.gguf", "for-transformers"):
        made = pintpot.export(folder, Path(scratch) / place, progress=lambda done, what: None)
        print(f"{made.path.name}: {made.kind}, {made.bits:.2f} bits a weight")
        for note in made.notes:
            print(note)
