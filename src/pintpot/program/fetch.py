"""Weights that are not resident: where `fetch` ops go into a program, and how streamed strips lie in slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log1p

from pintpot.errors import UsageError, need
from pintpot.formats import STRIP_ROWS
from pintpot.program.ops.linear import over_rows
from pintpot.program.spec import Buffer, Buffers, Op, Ops, Program, Segment, Stage, Table, Work

RING = "ring"
ALIGN = 4096


@dataclass(frozen=True, slots=True)
class Streaming:
    """What of one weight rests on disk: `num_bytes` in strips of `strip_bytes`, of `num_strips` that the weight has."""

    num_bytes: int
    strip_bytes: int
    num_strips: int

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
        resident = self.num_strips - self.num_bytes // self.strip_bytes
        share = 1 - log1p(STRIP_ROWS * resident) / log1p(STRIP_ROWS * self.num_strips)
        return round(share * _aligned(self.strip_bytes + ALIGN))


def insert_fetches(work: Work, disk: Mapping[str, Streaming], slot_bytes: int) -> Work:
    """The work with a fetch before each op that needs rows of a weight that rest on disk.

    A product needs them all in every pass, the head's only where logits are wanted; an embedding reads the strip of
    each token that falls among them.
    """
    ring = Buffers((Buffer(RING, (0,), "uint8", "ring", "ring"),))
    made: dict[tuple[str, str], Op] = {}

    def fetch(name: str, each: str) -> Op:
        if (name, each) not in made:
            num_bytes = disk[name].lookup_bytes if each == "token" else disk[name].pass_bytes(slot_bytes)
            attributes = (("bytes", num_bytes), ("per_token", each == "token"), ("over_rows", each == "rows"))
            made[name, each] = Op("fetch", (("weight", name),), (("ring", RING),), attributes, lane="read")
        return made[name, each]

    def streamed(program: Program) -> Program:
        ops: list[Op] = []
        inserted: list[Op] = []
        starts: list[int] = []
        for op in program.ops:
            starts.append(len(ops))
            wanted = [name for role, name in op.reads if role == "weight" and name in disk]
            if wanted:
                each = "token" if op.kind == "embed" else "rows" if over_rows(op, program) else "pass"
                fetches = [fetch(name, each) for name in wanted]
                ops += fetches
                inserted += fetches
            ops.append(op)
        starts.append(len(ops))
        buffers = program.buffers if isinstance(program.buffers, Buffers) else Buffers(program.buffers)
        segments = tuple(Segment(starts[s.first], starts[s.stop], s.slot) for s in program.segments)
        joined = Ops(ops)
        joined.parts = (program.ops if isinstance(program.ops, Table) else Table(program.ops), tuple(inserted))
        tables = Buffers.join(*(buffers.parts or (buffers,)), ring)
        return Program(program.name, program.bounds, tables, joined, segments)

    return Work(
        tuple(Stage(s.name, s.part, tuple(streamed(p) for p in s.programs), s.repeats) for s in work.stages),
        # Fetches touch nothing that a layout places.
        work.key,
    )


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
