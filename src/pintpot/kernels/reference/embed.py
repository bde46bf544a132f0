"""Embedding lookup, scaled where the op says so."""

from __future__ import annotations

from pintpot.kernels.reference import Call, Memory, names
from pintpot.program.spec import Op, Program


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    reads, rows = names(op.reads), op.get("rows", 0)
    words = memory[reads["ids"]].reshape(-1)[:rows] if rows else call.tokens
    memory[names(op.writes)["out"]] = memory[reads["weight"]][words] * op.get("scale", 1.0)
