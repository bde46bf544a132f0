"""Embedding lookup, scaled where the op says so, and rows that are given."""

from __future__ import annotations

import numpy as np

from pintpot.kernels.reference import Call, Memory, names
from pintpot.program.spec import Op, Program


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    reads, rows = names(op.reads), op.get("rows", 0)
    words = memory[reads["ids"]].reshape(-1)[:rows] if rows else call.tokens
    out = memory[reads["weight"]][np.maximum(words, 0)] * op.get("scale", 1.0)
    if "given" in reads:
        out[words < 0] = memory[reads["given"]][~words[words < 0]]
    memory[names(op.writes)["out"]] = out
