"""Weights that are not resident: where `fetch` ops go into a program, and how streamed strips lie in slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log1p
from typing import Literal, NamedTuple

from pintpot.errors import UsageError, need
from pintpot.formats import STRIP_ROWS
from pintpot.program.alike import Alike
from pintpot.program.ops.experts import num_chosen
from pintpot.program.ops.linear import over_rows
from pintpot.program.spec import Buffer, Buffers, Op, Program, Segment, Stage, Table, Work

RING = "ring"
ALIGN = 4096


class Streaming(NamedTuple):
    """What of a weight rests on disk: `num_bytes` in strips of `strip_bytes`, of `num_strips` that each expert has."""

    num_bytes: int
    strip_bytes: int
    num_strips: int
    experts: int = 1

    @property
    def resident_strips(self) -> int:
        """Of each expert."""
        return self.num_strips - self.streamed_strips

    @property
    def streamed_strips(self) -> int:
        """Of each expert."""
        return self.num_bytes // (self.strip_bytes * self.experts)

    def pass_bytes(self, slot_bytes: int) -> int:
        """Bytes that a pass reads: slots hold whole strips and are read in whole blocks."""
        filled = slot_bytes // self.strip_bytes * self.strip_bytes
        return round(self.num_bytes * _aligned(filled) / filled)

    @property
    def lookup_bytes(self) -> int:
        """Bytes that one token reads on average: its strip, with the blocks it begins and ends in, if it is on disk.

        The first rows are resident, and vocabularies begin with their most frequent words: the n-th comes up in
        proportion to 1/n (Zipf 1949), so the first n of N make log n / log N of a text.
        """
        share = 1 - log1p(STRIP_ROWS * self.resident_strips) / log1p(STRIP_ROWS * self.num_strips)
        return round(share * _aligned(self.strip_bytes + ALIGN))


Each = Literal["pass", "rows", "token"]
"""When rows are read: in every pass, in those where logits are wanted, or for each token."""


def insert_fetches(work: Work, disk: Mapping[str, Streaming], slot_bytes: int) -> Work:
    """The work with a fetch before each op that needs rows of a weight that rest on disk.

    A product needs them all in every pass, the head's only where logits are wanted; an embedding reads the strip of
    each token that falls among them.
    """
    ring = Buffer(RING, (0,), "uint8", "ring", "ring")

    def streamed(program: Program) -> Program:
        before: dict[int, list[Op]] = {}
        for index, read in _reads(program, disk, slot_bytes):
            before.setdefault(index, []).append(_fetch(read))
        ops: list[Op] = []
        starts: list[int] = []
        for index, op in enumerate(program.ops):
            starts.append(len(ops))
            ops += (*before.get(index, ()), op)
        starts.append(len(ops))
        segments = tuple(Segment(starts[s.first], starts[s.stop], s.slot) for s in program.segments)
        return Program(program.name, program.bounds, Buffers((*program.buffers, ring)), Table(ops), segments)

    return Work(
        tuple(Stage(s.name, s.part, tuple(streamed(p) for p in s.programs), s.extents) for s in work.stages),
        # Fetches touch nothing that a layout places.
        work.key,
    )


def fetches(program: Program, disk: Mapping[str, Streaming], slot_bytes: int) -> list[Alike]:
    """The fetches of `insert_fetches`, grouped by what of their weights is on disk and when it is read."""
    counts: dict[Read, int] = {}
    for _, read in _reads(program, disk, slot_bytes):
        alike = read._replace(name="")
        counts[alike] = counts.get(alike, 0) + 1
    groups = [(_fetch(read), count) for read, count in counts.items()]
    return [Alike((op.kind, op.attributes), op, count) for op, count in groups]


class Read(NamedTuple):
    """What one weight's rows on disk make a pass read; of `experts` those that some token meets, `chosen` each."""

    name: str
    each: Each
    num_bytes: int
    experts: int = 1
    chosen: int = 1
    rows: int = 0
    """So many are looked up whatever the replay's tokens, 0 as many as these."""


def _reads(program: Program, disk: Mapping[str, Streaming], slot_bytes: int) -> Iterator[tuple[int, Read]]:
    """Weights of which ops need rows that rest on disk, and the index of the op."""
    for index, op in enumerate(program.ops):
        names = [name for role, name in op.reads if role == "weight" and name in disk]
        if not names:
            continue
        if op.kind == "experts":
            for read in _of_experts(op, program, {name: disk[name] for name in names}, slot_bytes):
                yield index, read
            continue
        each: Each = "token" if op.kind == "embed" else "rows" if over_rows(op, program) else "pass"
        for name in names:
            if each == "token":
                yield index, Read(name, each, disk[name].lookup_bytes, rows=op.get("rows", 0))
            else:
                yield index, Read(name, each, disk[name].pass_bytes(slot_bytes))


def _of_experts(op: Op, program: Program, disk: Mapping[str, Streaming], slot_bytes: int) -> Iterator[Read]:
    """Each expert of an op has slots of its own, of all its weights; each weight has its share of their bytes."""
    strips = [(name, 0, found.streamed_strips, found.strip_bytes) for name, found in disk.items()]
    read = sum(slot.num_bytes for slot in lay_slots(strips, slot_bytes))
    whole = sum(found.num_bytes for found in disk.values())
    each: Each = "rows" if over_rows(op, program) else "pass"
    for name, found in disk.items():
        share = read * found.experts * found.num_bytes // whole
        yield Read(name, each, share, found.experts, num_chosen(op, program))


def _fetch(read: Read) -> Op:
    attributes: tuple[tuple[str, int | bool], ...] = (
        ("bytes", read.num_bytes), ("per_token", read.each == "token"), ("over_rows", read.each == "rows"),
    )  # fmt: skip
    if read.experts > 1:
        attributes += (("experts", read.experts), ("chosen", read.chosen))
    if read.rows:
        attributes += (("rows", read.rows),)
    return Op("fetch", (("weight", read.name),), (("ring", RING),), attributes, lane="read")


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGN) * ALIGN


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive strips of one weight in one slot: `num_strips` from `first_strip` on, at `offset` in the slot."""

    weight: str
    first_strip: int
    num_strips: int
    offset: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One read: `num_bytes` (a multiple of 4096), and the pieces that lie in it."""

    num_bytes: int
    pieces: tuple[Piece, ...]


def lay_slots(streamed: Sequence[tuple[str, int, int, int]], slot_bytes: int) -> tuple[Slot, ...]:
    """Streamed strips in the order of use, cut into slots; strips never straddle two.

    `streamed` holds (weight, first strip, number of strips, strip bytes) in that order.
    """
    slots: list[Slot] = []
    pieces: list[Piece] = []
    used = 0
    for name, first, count, strip_bytes in streamed:
        need(strip_bytes <= slot_bytes, f"{name}: a strip of {strip_bytes} bytes is larger than a slot", UsageError)
        while count:
            fitting = min(count, (slot_bytes - used) // strip_bytes)
            if fitting == 0:
                slots.append(Slot(_aligned(used), tuple(pieces)))
                pieces, used = [], 0
                continue
            pieces.append(Piece(name, first, fitting, used))
            first, count, used = first + fitting, count - fitting, used + fitting * strip_bytes
    if pieces:
        slots.append(Slot(_aligned(used), tuple(pieces)))
    return tuple(slots)
