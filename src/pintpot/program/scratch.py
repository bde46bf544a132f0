"""Scratch memory that the native backend needs beside a program's buffers: one region, used by one op at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pintpot.formats import encoding
from pintpot.program.alike import Alike, alike
from pintpot.program.ops.linear import FLOAT_FORMATS, PLANES, num_apart, over_rows, prepares
from pintpot.program.spec import Op, Program

BLOCK = 4096
LINE = 64
FEW_TOKENS = 4
SEGMENT_TOKENS = 128
HEADS_OF_THREAD = 4
"""Key heads that keep threads evenly busy without a split of the keys."""
PANEL_TOKENS = 16
QUANTIZED_BYTES = {0: 0, 1: 48, 2: 80, 3: 64}
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


@dataclass(frozen=True, slots=True)
class Rows:
    """What linear ops need: `copies` of their rows in float32, `row_bytes` a row, and panels of some rows a thread.

    `axis` bounds their rows, or is the number of them.
    """

    axis: str | int
    columns: int
    copies: int
    row_bytes: int
    panel: bool

    def scratch(self, program: Program) -> Scratch:
        rows = self.axis if isinstance(self.axis, int) else program.bound(self.axis)
        shared = _aligned(4 * rows * self.columns, LINE) * self.copies + rows * self.row_bytes
        return Scratch(shared, 4 * min(rows, PANEL_TOKENS) * self.columns if self.panel else 0)


@dataclass(frozen=True, slots=True)
class Needs:
    """What the ops of programs need that differ in their bounds alone: linear ops, most of which need the same."""

    linear: frozenset[Rows]
    others: tuple[Op, ...]

    @classmethod
    def of(cls, program: Program, known: dict[Hashable, Rows]) -> Needs:
        """`known` are those of ops that were looked at before, by signature; what is found is added."""
        linear, others = set(), []
        for item in alike(program):
            if item.op.kind != "linear":
                others.append(item.op)
                continue
            if item.signature not in known:
                known[item.signature] = _rows(item, program)
            linear.add(known[item.signature])
        return cls(frozenset(linear), tuple(others))

    def scratch(self, program: Program, threads: int) -> Scratch:
        """The most of each sort that any op asks for at the bounds of a program."""
        linear = [rows.scratch(program) for rows in self.linear]
        return Scratch.largest([*linear, *(_scratch(op, program, threads) for op in self.others)])


def scratch_bytes(program: Program, threads: int) -> int:
    """Bytes that any op of this program may use."""
    lookups = any(op.get("per_token") for op in program.ops if op.kind == "fetch")
    return Needs.of(program, {}).scratch(program, threads).total(threads, lookups)


def _scratch(op: Op, program: Program, threads: int) -> Scratch:
    if op.kind == "attend":
        segments = -(-program.bound("context") // SEGMENT_TOKENS)
        splits = threads > 1 and segments > 1 and op.get("kv_heads") < HEADS_OF_THREAD * threads
        per_token = 4 * op.get("heads") * (op.get("head_dim") + 16) * segments
        return Scratch(min(program.bound("tokens"), FEW_TOKENS) * per_token if splits else 0)
    if op.kind == "route":
        return Scratch(own=_aligned(4 * program.shape(str(op.read("scores")))[-1], LINE))
    if op.kind == "experts":
        return _of_pairs(op, program)
    if op.kind == "sample":
        return Scratch(own=4 * program.shape(str(op.read("logits")))[-1])
    if op.kind == "embed":
        weight = program.by_name[str(op.read("weight"))]
        strip = _aligned(encoding(weight.format).strip_bytes(program.shape(weight.name)[1]), BLOCK)
        return Scratch(own_reading=strip + max(strip + 2 * BLOCK, VERIFIED_BYTES))
    return Scratch()


def _of_pairs(op: Op, program: Program) -> Scratch:
    """Rows of all pairs of tokens and experts."""
    names, planes = op.read_all("weight"), PLANES[op.get("activation", "float32")]
    columns = program.shape(names[0])[1]
    pairs = program.bound("rows" if over_rows(op, program) else "tokens") * program.shape(str(op.read("chosen")))[-1]
    as_floats = [planes == 0 or program.by_name[name].format in FLOAT_FORMATS for name in names]
    shared = _aligned(4 * pairs * columns, LINE) if any(as_floats) else 0
    int8 = 0 if all(as_floats) else pairs * -(-columns // 32) * QUANTIZED_BYTES[planes]
    return Scratch(shared + int8, 0 if any(as_floats) else 4 * min(pairs, PANEL_TOKENS) * columns)


def _rows(item: Alike, program: Program) -> Rows:
    op = item.op
    names = op.read_all("weight")
    columns, planes = program.shape(names[0])[1], PLANES[op.get("activation", "float32")]
    is_float, apart = [program.by_name[name].format in FLOAT_FORMATS for name in names], num_apart(op, program)
    floats, rest, int8 = (
        any(is_float) or (planes == 0 and apart == 0),
        planes == 0 and apart > 0,
        planes > 0 and not all(is_float),
    )
    prepared = prepares(op)
    row_bytes = 4 * apart + (-(-columns // 32) * QUANTIZED_BYTES[planes] if int8 else 0)
    panel = int8 and (apart > 0 or (prepared and not floats))
    axis = op.get("rows") or ("rows" if over_rows(op, program) else "tokens")
    return Rows(axis, columns, (floats and prepared) + rest, row_bytes, panel)


def _aligned(num_bytes: int, to: int) -> int:
    return -(-num_bytes // to) * to
