"""Embedding lookup, scaled where the op says so."""

from __future__ import annotations

from pintpot.kernels.reference import Call, Memory, names
from pintpot.program.spec import Op, Program


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    reads = names(op.reads)
    memory[names(op.writes)["out"]] = memory[reads["weight"]][call.tokens] * op.get("scale", 1.0)
