"""Weights that are not resident: where `fetch` ops go into a program, and how streamed strips lie in slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pintpot.errors import UsageError, need
from pintpot.program.spec import Buffer, Op, Program, Segment

RING = "ring"
ALIGN = 4096


def insert_fetches(program: Program, disk: Mapping[str, tuple[int, int]]) -> Program:
    """The program with a fetch before each op that needs rows of a weight that rest on disk.

    `disk` gives, for each such weight, the bytes of its streamed rows and of one strip. An embedding reads one strip
    for each token that falls among the streamed rows.
    """
    ops: list[Op] = []
    starts: list[int] = []
    for op in program.ops:
        starts.append(len(ops))
        ops.extend(_fetch(op, name, *disk[name], program) for name in op.read_all("weight") if name in disk)
        ops.append(op)
    starts.append(len(ops))
    ring = Buffer(RING, (0,), "uint8", "ring", "ring")
    segments = tuple(Segment(starts[s.first], starts[s.stop], s.slot) for s in program.segments)
    return replace(program, buffers=(*program.buffers, ring), ops=tuple(ops), segments=segments)


def _fetch(op: Op, name: str, disk_bytes: int, strip_bytes: int, program: Program) -> Op:
    per_token = op.kind == "embed"
    num_bytes = disk_bytes
    if per_token:
        rows = program.shape(name)[0]
        share = disk_bytes / (strip_bytes * -(-rows // 16))
        num_bytes = round(share * (strip_bytes + ALIGN - 1) // ALIGN * ALIGN) if share < 1 else _aligned(strip_bytes)
    return Op(
        "fetch", (("weight", name),), (("ring", RING),), (("bytes", num_bytes), ("per_token", per_token)), lane="read"
    )


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
