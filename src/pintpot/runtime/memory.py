"""The memory of an open pack: arenas laid out ahead of time, resident weights loaded and verified, the ring started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import BadPack, need
from pintpot.nets._rope import rope_table
from pintpot.packer.checks import crc32c
from pintpot.packer.manifest import CHECK_BYTES, Manifest
from pintpot.packer.manifest import WEIGHTS as WEIGHTS_FILE
from pintpot.planner.holders import BUFFERS, CACHE, RING, TABLES, WEIGHTS
from pintpot.program.layout import Layout
from pintpot.stream.arena import open_arena
from pintpot.stream.reader import read_into
from pintpot.stream.ring import RingSlot, open_ring

if TYPE_CHECKING:
    from pintpot._native import Arena, Ring

Progress = Callable[[float, str], None]
Mark = Callable[[str], None]
LABELS = {"cache": CACHE, "buffers": BUFFERS, "tables": TABLES}
LOAD_BYTES = 32 << 20
"""Resident weights are read and verified in runs of so many bytes, so that a person sees them come."""
LEAST_BYTES = 4096


@dataclass(frozen=True)
class PackMemory:
    """Arenas by holder; `weights` gives the address of each resident weight; `ring` streams the others.

    `direct` is False where the filesystem sent what was read through the page cache.
    """

    arenas: Mapping[str, Arena]
    weights: Mapping[str, int]
    ring: Ring | None
    direct: bool

    def address(self, holder: str, offset: int) -> int:
        return self.arenas[holder].address + offset


def memory_bytes(manifest: Manifest, layout: Layout, scratch_bytes: int) -> int:
    """What `open_memory` takes."""
    ring = manifest.plan.form.ring
    streamed = ring.num_bytes if ring is not None else 0
    return sum(layout.sizes.values()) + scratch_bytes + manifest.resident_bytes + streamed


def open_memory(
    folder: Path,
    manifest: Manifest,
    layout: Layout,
    scratch_bytes: int,
    closing: ExitStack,
    mark: Mark,
    progress: Progress | None,
) -> PackMemory:
    """Take and fill all memory that a pack needs; `closing` gives it back, once no replay uses it.

    `mark(holder)` is told when a holder's memory has been taken. Raises BadPack for changed bytes, DoesNotFit where
    the machine gives no memory.
    """
    file = folder / WEIGHTS_FILE
    found = file.stat().st_size if file.exists() else None
    need(found is not None, f"{file} is missing", BadPack)
    need(found == manifest.file_bytes, f"{file} has {found} bytes, the manifest says {manifest.file_bytes}", BadPack)
    arenas: dict[str, Arena] = {}

    def take(name: str, num_bytes: int, holder: str) -> None:
        arenas[name] = open_arena(max(num_bytes, LEAST_BYTES))
        closing.callback(_give_back, arenas[name])
        mark(holder)

    for name, size in layout.sizes.items():
        take(name, size, LABELS[name])
    take("scratch", scratch_bytes, BUFFERS)
    take("weights", manifest.resident_bytes, WEIGHTS)
    direct = _load(file, manifest, arenas["weights"], progress)
    mark(WEIGHTS)
    _fill_tables(manifest, layout, arenas)
    mark(TABLES)
    ring = None
    if manifest.slots:
        if manifest.plan.form.ring is not None:
            take("ring", manifest.plan.form.ring.num_bytes, RING)
        ring = _ring(file, manifest, arenas)
        closing.callback(ring.close)
        direct = direct and ring.direct
        mark(RING)
    base = arenas["weights"].address
    return PackMemory(arenas, {item.name: base + item.offset for item in manifest.residents}, ring, direct)


def _give_back(arena: Arena) -> None:
    try:
        arena.close()
    except BufferError:
        # Somebody still looks at it; it goes when that view goes.
        return


def _load(file: Path, manifest: Manifest, arena: Arena, progress: Progress | None) -> bool:
    """Read and verify the resident weights; whether they came past the page cache."""
    view, total, direct = memoryview(arena), manifest.resident_bytes, True
    for first in range(0, total, LOAD_BYTES):
        part = view[first : min(first + LOAD_BYTES, total)]
        direct = read_into(file, manifest.resident_offset + first, part).direct and direct
        _verify(file, manifest, part, first)
        if progress is not None:
            progress((first + len(part)) / total, "loading")
    return direct


def _verify(file: Path, manifest: Manifest, part: memoryview, first: int) -> None:
    for at in range(0, len(part), CHECK_BYTES):
        index = (first + at) // CHECK_BYTES
        if crc32c(part[at : at + CHECK_BYTES]) != manifest.resident_crcs[index]:
            names = ", ".join(_names(manifest, index * CHECK_BYTES))
            raise BadPack(f"{file}: the resident weights ({names}) were changed after packing")


def _names(manifest: Manifest, first: int) -> list[str]:
    """Weights that lie in the checked run that begins at `first`; at most three."""
    stop = first + CHECK_BYTES
    found = [item.name for item in manifest.residents if item.offset < stop and first < item.offset + item.num_bytes]
    return found[:3] + ["..."] * (len(found) > 3)


def _fill_tables(manifest: Manifest, layout: Layout, arenas: Mapping[str, Arena]) -> None:
    plan = manifest.plan
    holder, offset = layout.session["rope"]
    resident = {item.name: item for item in manifest.residents}
    factors = None
    if "rope_freqs" in resident:
        item = resident["rope_freqs"]
        factors = _floats(arenas["weights"], item.offset, item.num_bytes // 4)
    out = _floats(arenas[holder], offset, (arenas[holder].nbytes - offset) // 4)
    rope_table(plan.config, plan.budget.workload.context, factors, out)


def _floats(arena: Arena, offset: int, count: int) -> NDArray[np.float32]:
    return np.frombuffer(memoryview(arena), np.float32, count, offset)


def _ring(file: Path, manifest: Manifest, arenas: Mapping[str, Arena]) -> Ring:
    """The ring of the slots that every pass reads; without any it only serves rows that are looked up."""
    slots = [RingSlot(offset, slot.num_bytes, crc) for offset, crc, slot in manifest.slots]
    form, order = manifest.plan.form.ring, range(manifest.num_passing)
    if form is None:
        return open_ring(file, slots, arenas["scratch"], offset=0, num_buffers=0, slot_bytes=LEAST_BYTES, order=order)
    return open_ring(
        file,
        slots,
        arenas["ring"],
        offset=0,
        num_buffers=form.num_slots,
        slot_bytes=form.slot_bytes,
        order=order,
        in_flight=form.in_flight,
    )
