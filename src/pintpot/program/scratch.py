"""Scratch memory that the native backend needs beside a program's buffers."""

from __future__ import annotations

from pintpot.program.ops.linear import PLANES
from pintpot.program.spec import Program

PRIVATE_ROWS = 4
"""Up to so many rows every thread computes a prologue for itself; more are computed once, together."""


def scratch_bytes(program: Program, threads: int) -> int:
    """An upper bound: prologue rows in float and int8, the scores of attention, and the order of sampled logits."""
    rows, largest = program.bound("tokens"), 0
    for op in program.ops:
        if op.kind == "linear":
            width = program.shape(op.read_all("weight")[0])[1]
            planes = PLANES[op.get("activation", "float32")]
            per_row = 4 * width + planes * (width + width // 8) + width // 8 + 256
            copies = threads * min(rows, PRIVATE_ROWS) + (rows if rows > PRIVATE_ROWS else 0)
            largest = max(largest, per_row * copies)
        elif op.kind == "attend":
            group = op.get("heads") // op.get("kv_heads")
            context = program.bound("context")
            largest = max(largest, threads * 4 * group * (context + 16 * op.get("head_dim") * 3))
        elif op.kind == "sample":
            largest = max(largest, 12 * program.shape(str(op.read("logits")))[-1])
    return largest
