"""The rows whose logits are wanted."""

from __future__ import annotations

from pintpot.kernels.reference import Call, Memory, names
from pintpot.program.spec import Op, Program


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    memory[names(op.writes)["out"]] = memory[names(op.reads)["x"]][list(call.rows)]
