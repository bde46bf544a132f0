"""Rows that are given, added to the stream."""

from __future__ import annotations

from pintpot.kernels.reference import Call, Memory, names
from pintpot.program.spec import Op, Program


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    reads, out = names(op.reads), memory[names(op.reads)["x"]].copy()
    out[call.tokens < 0] += memory[reads["given"]][~call.tokens[call.tokens < 0]]
    memory[names(op.writes)["out"]] = out
