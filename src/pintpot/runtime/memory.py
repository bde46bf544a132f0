"""The memory of an open pack: arenas laid out ahead of time, resident weights loaded and verified, the ring started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pintpot.errors import BadPack
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



@dataclass(frozen=True)
class PackMemory:
    """Arenas by holder; `weights` gives the address of each resident weight; `ring` streams the others."""

    arenas: Mapping[str, Arena]
    weights: Mapping[str, int]
    ring: Ring | None

    def address(self, holder: str, offset: int) -> int:
        return int(self.arenas[holder].address) + offset

    def close(self) -> None:
        """Give everything back; replays over it must be gone."""
        if self.ring is not None:
            self.ring.close()


def open_memory(
    folder: Path,
    manifest: Manifest,
    layout: Layout,
    scratch_bytes: int,
    mark: Mark,
    progress: Progress | None,
) -> PackMemory:
    """Take and fill all memory that a pack needs; `mark(holder)` is told when a holder's memory has been taken.

    Raises BadPack for changed bytes, DoesNotFit where none is given.
    """
    file = folder / WEIGHTS_FILE
    found = file.stat().st_size if file.exists() else -1
    if found != manifest.file_bytes:
        raise BadPack(f"{file} has {found} bytes, the manifest says {manifest.file_bytes}")
    arenas: dict[str, Arena] = {}
    for holder, size in layout.sizes.items():
        if size:
            arenas[holder] = open_arena(size)
            mark(LABELS[holder])
    arenas["scratch"] = open_arena(max(scratch_bytes, 4096))
    mark(BUFFERS)
    arenas["weights"] = open_arena(max(manifest.resident_bytes, 4096), huge=True)
    _load(file, manifest, arenas["weights"], progress)
    mark(WEIGHTS)
    _fill_tables(manifest, layout, arenas)
    mark(TABLES)
    base = int(arenas["weights"].address)
    weights = {item.name: base + item.offset for item in manifest.residents}
    ring = _ring(file, manifest, arenas)
    mark(RING)
    return PackMemory(arenas, weights, ring)


def _load(file: Path, manifest: Manifest, arena: Arena, progress: Progress | None) -> None:
    view = memoryview(arena)
    total = manifest.resident_bytes
    for first in range(0, total, LOAD_BYTES):
        part = view[first : min(first + LOAD_BYTES, total)]
        read_into(file, manifest.resident_offset + first, part)
        _verify(file, manifest, part, first)
        if progress is not None:
            progress((first + len(part)) / total, "loading")


def _verify(file: Path, manifest: Manifest, part: memoryview, first: int) -> None:
    for at in range(0, len(part), CHECK_BYTES):
        index = (first + at) // CHECK_BYTES
        if crc32c(part[at : at + CHECK_BYTES]) != manifest.resident_crcs[index]:
            raise BadPack(f"{file}: bytes {first + at} and on of the resident weights were changed after packing")


def _fill_tables(manifest: Manifest, layout: Layout, arenas: Mapping[str, Arena]) -> None:
    plan = manifest.plan
    holder, offset = layout.session["rope"]
    resident = {item.name: item for item in manifest.residents}
    factors = None
    if "rope_freqs" in resident:
        item = resident["rope_freqs"]
        factors = np.frombuffer(arenas["weights"], np.float32, item.num_bytes // 4, item.offset)
    table = rope_table(plan.config, plan.budget.workload.context, factors)
    target = np.frombuffer(arenas[holder], np.float32, table.size, offset)
    target[:] = table.reshape(-1)


def _ring(file: Path, manifest: Manifest, arenas: dict[str, Arena]) -> Ring | None:
    if not manifest.slots:
        return None
    slots = [RingSlot(offset, slot.num_bytes, crc) for offset, crc, slot in manifest.slots]
    form = manifest.plan.form.ring
    order = range(manifest.num_passing)
    if form is None:
        return open_ring(file, slots, arenas["scratch"], offset=0, num_buffers=0, slot_bytes=4096, order=order)
    arenas["ring"] = open_arena(form.num_bytes)
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
