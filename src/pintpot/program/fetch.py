"""Weights that are not resident: where `fetch` ops go into a program, and how streamed strips lie in slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pintpot.errors import UsageError, need
from pintpot.program.spec import Buffer, Buffers, Op, Program, Segment, Stage, Work

RING = "ring"
ALIGN = 4096


@dataclass(frozen=True, slots=True)
class Streaming:
    """What of one weight rests on disk: `num_bytes` in strips of `strip_bytes`, of `num_strips` that the weight has."""

    num_bytes: int
    strip_bytes: int
    num_strips: int


def insert_fetches(work: Work, disk: Mapping[str, Streaming]) -> Work:
    """The work with a fetch before each op that needs rows of a weight that rest on disk.

    A product needs them all in every pass; an embedding reads the strip of each token that falls among them.
    """
    ring = Buffers((Buffer(RING, (0,), "uint8", "ring", "ring"),))
    made: dict[tuple[str, bool], Op] = {}

    def fetch(name: str, looked_up: bool) -> Op:
        if (name, looked_up) not in made:
            made[name, looked_up] = _fetch(name, disk[name], looked_up)
        return made[name, looked_up]

    def streamed(program: Program) -> Program:
        ops: list[Op] = []
        starts: list[int] = []
        for op in program.ops:
            starts.append(len(ops))
            wanted = [name for role, name in op.reads if role == "weight" and name in disk]
            ops += [fetch(name, op.kind == "embed") for name in wanted]
            ops.append(op)
        starts.append(len(ops))
        parts = program.buffers.parts if isinstance(program.buffers, Buffers) else (Buffers(program.buffers),)
        segments = tuple(Segment(starts[s.first], starts[s.stop], s.slot) for s in program.segments)
        return Program(program.name, program.bounds, Buffers.join(*parts, ring), tuple(ops), segments)

    return Work(
        tuple(Stage(s.name, s.part, tuple(streamed(p) for p in s.programs), s.repeats) for s in work.stages),
        # Fetches touch nothing that a layout places.
        work.key,
    )


def _mean_read(item: Streaming) -> int:
    """Bytes read for one token on average: its strip, in whole disk blocks, if it is one of those on disk."""
    share = item.num_bytes / (item.strip_bytes * item.num_strips)
    return round(share * _aligned(item.strip_bytes + ALIGN))


def _fetch(name: str, item: Streaming, looked_up: bool) -> Op:
    attributes = (("bytes", _mean_read(item) if looked_up else item.num_bytes), ("per_token", looked_up))
    return Op("fetch", (("weight", name),), (("ring", RING),), attributes, lane="read")


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGN) * ALIGN


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive strips of one weight in one slot: `num_strips` from strip `first_strip` on, at `offset` in the slot."""

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
