"""Pack: write a model in the form that its plan promises. The folder appears whole or not at all."""

import tempfile
from pathlib import Path

from smollm2 import model

import pintpot
from pintpot.units import format_bytes

with tempfile.TemporaryDirectory() as scratch:
    plan = pintpot.plan(model(), memory="300MB", context=256)
    folder = pintpot.pack(model(), plan, Path(scratch) / "packed", progress=lambda done, what: None)
    for file in sorted(folder.iterdir()):
        print(f"{file.name}: {format_bytes(file.stat().st_size)}")
