"""The memory of an open pack: arenas laid out ahead of time, resident weights awaited, the ring started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pintpot.errors import BadPack
from pintpot.nets._rope import fill_rope_table, rope_configs
from pintpot.packer.manifest import Manifest
from pintpot.packer.raw import CHECK_BYTES
from pintpot.packer.raw import WEIGHTS as WEIGHTS_FILE
from pintpot.planner.names import BUFFERS, CACHE, RING, TABLES
from pintpot.program.layout import Layout
from pintpot.runtime.begun import LEAST_BYTES, Begun, give_back
from pintpot.stream.arena import open_arena
from pintpot.stream.ring import RingSlot, open_ring

if TYPE_CHECKING:
    from pintpot._native import Arena, Ring

Progress = Callable[[float, str], None]
Mark = Callable[[str], None]
LABELS = {"cache": CACHE, "buffers": BUFFERS, "tables": TABLES}


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


def open_memory(begun: Begun, manifest: Manifest, layout: Layout, scratch_bytes: int, mark: Mark) -> PackMemory:
    """Take all memory that a pack needs beside its weights, and start its ring.

    `mark(holder)` is told when a holder's memory has been taken. Raises BadPack, DoesNotFit where the machine gives no
    memory.
    """
    arenas: dict[str, Arena] = {"weights": begun.weights}

    def take(name: str, num_bytes: int, holder: str) -> None:
        arenas[name] = open_arena(max(num_bytes, LEAST_BYTES))
        begun.pack.closing.callback(give_back, arenas[name])
        mark(holder)

    for name, size in layout.sizes.items():
        take(name, size, LABELS[name])
    take("scratch", scratch_bytes, BUFFERS)
    direct, ring = begun.loader.direct, None
    if manifest.slots:
        if manifest.plan.form.ring is not None:
            take("ring", manifest.plan.form.ring.num_bytes, RING)
        ring = _ring(begun.pack.folder / WEIGHTS_FILE, manifest, arenas)
        begun.pack.closing.callback(ring.close)
        direct = direct and ring.direct
        mark(RING)
    base = begun.weights.address
    return PackMemory(arenas, {item.name: base + item.offset for item in manifest.residents}, ring, direct)


def finish_weights(begun: Begun, manifest: Manifest, progress: Progress | None) -> None:
    """Wait until the resident weights are there. Raises BadPack where they were changed."""
    total = max(1, manifest.resident_bytes)

    def told(done: int) -> None:
        if progress is not None:
            progress(done / total, "loading")

    changed = begun.loader.finish(told)
    if changed is not None:
        names = ", ".join(_names(manifest, changed * CHECK_BYTES))
        raise BadPack(f"{begun.pack.folder / WEIGHTS_FILE}: the resident weights ({names}) were changed after packing")


def fill_tables(manifest: Manifest, layout: Layout, memory: PackMemory) -> None:
    """Write what is computed once, from the weights that are there."""
    plan = manifest.plan
    found = [item for item in manifest.residents if item.name == "rope_freqs"]
    factors = [memoryview(memory.arenas["weights"])[i.offset : i.offset + i.num_bytes].cast("f") for i in found]
    for name, config in rope_configs(plan.config).items():
        if name not in layout.session:
            continue
        holder, offset = layout.session[name]
        with memoryview(memory.arenas[holder])[offset:] as out:
            fill_rope_table(out, config, plan.budget.workload.context, factors[0] if factors else None)


def _names(manifest: Manifest, first: int) -> list[str]:
    """Weights that lie in the checked run that begins at `first`; at most three."""
    stop = first + CHECK_BYTES
    found = [item.name for item in manifest.residents if item.offset < stop and first < item.offset + item.num_bytes]
    return found[:3] + ["..."] * (len(found) > 3)


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
