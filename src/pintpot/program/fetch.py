"""Weights that are not resident: where `fetch` ops go into a program, and how streamed strips lie in slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log1p
from typing import Any

from pintpot.errors import UsageError, need
from pintpot.formats import STRIP_ROWS
from pintpot.program.alike import Alike
from pintpot.program.ops.linear import over_rows
from pintpot.program.spec import Buffer, Buffers, Op, Program, Segment, Stage, Table, Work

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


Knobs = tuple[tuple[str, Any], ...]


def insert_fetches(work: Work, disk: Mapping[str, Streaming], slot_bytes: int) -> Work:
    """The work with a fetch before each op that needs rows of a weight that rest on disk.

    A product needs them all in every pass, the head's only where logits are wanted; an embedding reads the strip of
    each token that falls among them.
    """
    ring = Buffer(RING, (0,), "uint8", "ring", "ring")

    def streamed(program: Program) -> Program:
        before: dict[int, list[Op]] = {}
        for index, name, knobs in _reads(program, disk, slot_bytes):
            before.setdefault(index, []).append(_fetch(name, knobs))
        ops: list[Op] = []
        starts: list[int] = []
        for index, op in enumerate(program.ops):
            starts.append(len(ops))
            ops += (*before.get(index, ()), op)
        starts.append(len(ops))
        segments = tuple(Segment(starts[s.first], starts[s.stop], s.slot) for s in program.segments)
        return Program(program.name, program.bounds, Buffers((*program.buffers, ring)), Table(ops), segments)

    return Work(
        tuple(Stage(s.name, s.part, tuple(streamed(p) for p in s.programs), s.repeats) for s in work.stages),
        # Fetches touch nothing that a layout places.
        work.key,
    )


def fetches(program: Program, disk: Mapping[str, Streaming], slot_bytes: int) -> list[Alike]:
    """The fetches that `insert_fetches` puts into a program, grouped: only their knobs say what they ask for."""
    found: dict[Knobs, tuple[str, int]] = {}
    for _, name, knobs in _reads(program, disk, slot_bytes):
        first, count = found.get(knobs, (name, 0))
        found[knobs] = (first, count + 1)
    return [Alike(("fetch", knobs), _fetch(first, knobs), count) for knobs, (first, count) in found.items()]


def _reads(program: Program, disk: Mapping[str, Streaming], slot_bytes: int) -> Iterator[tuple[int, str, Knobs]]:
    """Weights of which ops need rows that rest on disk: the index of the op, the weight, and the fetch's knobs."""
    for index, op in enumerate(program.ops):
        for role, name in op.reads:
            if role == "weight" and name in disk:
                per_token = op.kind == "embed"
                num_bytes = disk[name].lookup_bytes if per_token else disk[name].pass_bytes(slot_bytes)
                rows = not per_token and over_rows(op, program)
                yield index, name, (("bytes", num_bytes), ("per_token", per_token), ("over_rows", rows))


def _fetch(name: str, knobs: Knobs) -> Op:
    return Op("fetch", (("weight", name),), (("ring", RING),), knobs, lane="read")


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
