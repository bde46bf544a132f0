"""Scratch memory that the native backend needs beside a program's buffers: one region, used by one op at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pintpot.formats import encoding
from pintpot.program.alike import alike
from pintpot.program.ops.linear import FLOAT_FORMATS, PLANES, bound_rows, num_apart, prepares
from pintpot.program.spec import Op, Program

BLOCK = 4096
LINE = 64
FEW_TOKENS = 4
SEGMENT_TOKENS = 128
HEADS_OF_THREAD = 4
"""Key heads that keep threads evenly busy without a split of the keys."""
PANEL_TOKENS = 8
QUANTIZED_BYTES = {0: 0, 1: 48, 2: 80}
"""Of 32 activations, by planes."""
VERIFIED_BYTES = 256 << 10
"""Single strips are verified in reads of at least so much."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """Bytes that the threads of an op share, of each thread's own, and of its own where it reads rows from disk."""

    shared: int = 0
    own: int = 0
    own_reading: int = 0

    def total(self, threads: int, lookups: bool) -> int:
        own = max(self.own, self.own_reading) if lookups else self.own
        return _aligned(self.shared, BLOCK) + threads * _aligned(own, BLOCK)

    @staticmethod
    def largest(needs: Sequence[Scratch]) -> Scratch:
        """The most of each sort that one of these asks for."""
        return Scratch(
            max((need.shared for need in needs), default=0),
            max((need.own for need in needs), default=0),
            max((need.own_reading for need in needs), default=0),
        )


def scratch_bytes(program: Program, threads: int) -> int:
    """Bytes that any op of this program may use."""
    lookups = any(op.get("per_token") for op in program.ops if op.kind == "fetch")
    return Scratch.largest([scratch(item.op, program, threads) for item in alike(program)]).total(threads, lookups)


def scratch(op: Op, program: Program, threads: int) -> Scratch:
    """What an op of a program needs; ops that are alike need the same."""
    if op.kind == "linear":
        return _linear(op, program)
    if op.kind == "attend":
        segments = -(-program.bound("context") // SEGMENT_TOKENS)
        splits = threads > 1 and segments > 1 and op.get("kv_heads") < HEADS_OF_THREAD * threads
        per_token = 4 * op.get("heads") * (op.get("head_dim") + 16) * segments
        return Scratch(min(program.bound("tokens"), FEW_TOKENS) * per_token if splits else 0)
    if op.kind == "sample":
        return Scratch(own=4 * program.shape(str(op.read("logits")))[-1])
    if op.kind == "embed":
        weight = program.by_name[str(op.read("weight"))]
        strip = _aligned(encoding(weight.format).strip_bytes(program.shape(weight.name)[1]), BLOCK)
        return Scratch(own_reading=strip + max(strip + 2 * BLOCK, VERIFIED_BYTES))
    return Scratch()


def _linear(op: Op, program: Program) -> Scratch:
    names = op.read_all("weight")
    columns = program.shape(names[0])[1]
    rows, planes = bound_rows(op, program), PLANES[op.get("activation", "float32")]
    is_float, apart = [program.by_name[name].format in FLOAT_FORMATS for name in names], num_apart(op, program)
    low_bit = not all(is_float)
    floats, rest, int8 = (
        any(is_float) or (planes == 0 and apart == 0),
        planes == 0 and apart > 0,
        planes > 0 and low_bit,
    )
    prepared = prepares(op)
    shared = _aligned(4 * rows * columns, LINE) * ((floats and prepared) + rest) + 4 * rows * apart
    shared += rows * -(-columns // 32) * QUANTIZED_BYTES[planes] if int8 else 0
    panel = int8 and (apart > 0 or (prepared and not floats))
    return Scratch(shared, 4 * min(rows, PANEL_TOKENS) * columns if panel else 0)


def _aligned(num_bytes: int, to: int) -> int:
    return -(-num_bytes // to) * to
