"""Slots of a pack, read ahead of the computation into a ring of buffers, pass after pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pintpot._native import Arena, Ring
from pintpot.errors import BadPack
from pintpot.stream.border import native_errors

IN_FLIGHT = 4


@dataclass(frozen=True, slots=True)
class RingSlot:
    """Bytes of the file, offset and size multiples of 4096, with their CRC-32C, verified at the first read."""

    offset: int
    num_bytes: int
    crc: int | None = None


@dataclass(frozen=True, slots=True)
class RingStats:
    """Since the last reset. The three times add up to the time that replays took."""

    bytes_read: int
    slots_read: int
    waited_s: float
    """Compute threads, summed, for slots that were not there yet."""
    idle_s: float
    """No read was in flight."""
    one_in_flight_s: float
    more_in_flight_s: float


def open_ring(
    path: Path | str,
    slots: Sequence[RingSlot],
    arena: Arena,
    *,
    offset: int,
    num_buffers: int,
    slot_bytes: int,
    order: Sequence[int] | None = None,
    in_flight: int = IN_FLIGHT,
) -> Ring:
    """Start reading `slots` into `num_buffers` (2 or more) buffers of `slot_bytes` at `offset` of an arena.

    `order` names the slots that a pass takes, all of them where it is None; the others are read by row. Without slots
    and buffers it serves rows that are looked up. Raises BadPack where the file is not what the slots say.
    """
    table = [(slot.offset, slot.num_bytes, slot.crc) for slot in slots]
    passing = list(range(len(slots))) if order is None else list(order)
    with native_errors(f"reading {path}", BadPack):
        return Ring(str(path), table, passing, arena, offset, num_buffers * slot_bytes, slot_bytes, in_flight)


def ring_stats(ring: Ring) -> RingStats:
    """What a ring has done since its last `reset_stats()`."""
    return RingStats(**ring.stats())
