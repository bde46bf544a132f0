"""Scratch memory that a replay on the native backend needs beside a program's buffers.

The same sums as the engine's own, so that plans count them without the compiled part; a test holds them together.
"""

from __future__ import annotations

from pintpot.formats import encoding
from pintpot.program.ops.linear import FLOAT_FORMATS, PLANES
from pintpot.program.spec import Op, Program

BLOCK = 4096
FEW_TOKENS = 4
PANEL_TOKENS = 8
SEGMENT_TOKENS = 512
VERIFY_BYTES = 256 << 10
QUANTIZED_GROUP_BYTES = {1: 48, 2: 88}


def scratch_bytes(program: Program, threads: int) -> int:
    """Bytes of one region that serves every op: what all threads of an op share, and each thread's own."""
    needs = [_need(op, program) for op in program.ops]
    shared, own = max(need[0] for need in needs), max(need[1] for need in needs)
    return _up(shared, BLOCK) + threads * _up(own, BLOCK)


def _need(op: Op, program: Program) -> tuple[int, int]:
    """Bytes shared by all threads of one op, and bytes of each thread's own."""
    if op.kind == "linear":
        return _linear(op, program)
    if op.kind == "attend":
        segments = -(-program.bound("context") // SEGMENT_TOKENS)
        tokens, width = min(program.bound("tokens"), FEW_TOKENS), op.get("head_dim") + 16
        return (tokens * op.get("heads") * width * segments * 4 if segments > 1 else 0), 0
    if op.kind == "embed":
        weight = program.by_name[str(op.read("weight"))]
        # As if rows rested on disk, which is decided after this is counted.
        strip = _up(encoding(weight.format).strip_bytes(program.shape(weight.name)[1]), BLOCK)
        return 0, strip + max(strip + 2 * BLOCK, VERIFY_BYTES)
    if op.kind == "sample":
        return 0, _up(4 * program.shape(str(op.read("logits")))[-1], 64)
    return 0, 0


def _linear(op: Op, program: Program) -> tuple[int, int]:
    weights = op.read_all("weight")
    rows, columns = program.shape(str(op.write("out")))[0], program.shape(weights[0])[1]
    planes, prologue = PLANES[op.get("activation", "float32")], op.get("prologue", "none") != "none"
    is_float = [planes == 0 or program.by_name[name].format in FLOAT_FORMATS for name in weights]
    shared = own = 0
    if any(is_float) and prologue:
        shared += _up(4 * rows * columns, 64)
    if not all(is_float):
        shared += rows * -(-columns // 32) * QUANTIZED_GROUP_BYTES[planes]
        own = 4 * min(rows, PANEL_TOKENS) * columns if prologue and not any(is_float) else 0
    return shared, own


def _up(num_bytes: int, unit: int) -> int:
    return -(-num_bytes // unit) * unit
