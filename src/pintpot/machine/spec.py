"""WHERE: a machine as numbers. Measured by `probe`, or read from a data sheet in the catalog."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from pintpot.errors import BadInput, need

CACHE_FORMATS = ("f16", "sym8c")
MATMUL_ROWS = (16, 64, 256)
ATTENTION_GROUPS = (1, 2, 4, 8)
PROLOGUES = ("rmsnorm", "swiglu", "int8", "int8x2", "rotate", "geglu", "bfloat16")
PROLOGUE_ROWS = (1, 64)
WORKING_SETS = (32_000_000, 100_000_000, 400_000_000)
WRITE_BYTES = 2 << 20
"""What is written at a time."""
LOOKUP_BYTES = 16 << 10
"""Of a direct read of a single row of a vocabulary, about."""
DISK_BLOCKS = (256 << 10, 1 << 20, 4 << 20)
DISK_IN_FLIGHT = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Rate:
    """One measured or published rate, with its spread: quantiles 0.025, 0.5 and 0.975 of what was seen.

    `what` is the thing whose speed it is, `per_second` units of it (bytes, operations, calls):
        read, copy               bytes of RAM, streamed by `threads` threads, at a working set of `size` bytes
        matvec/FORMAT            weights (values) multiplied with one activation row; weights of `size` bytes, listed
                                 first with more than the caches hold, then with less
        matmul/FORMAT            multiply-adds, at `size` activation rows; weights come from RAM
                                 (in both, FORMATx2: rows in two int8 planes, FORMATx0: low-bit weights and float rows,
                                 FORMATxb: rows in bfloat16, where the processor multiplies tiles of them)
        prologue/WHAT            values normalized, gated, rotated or rounded before a product (rmsnorm, swiglu, geglu,
                                 rotate, int8, int8x2, bfloat16), at `size` rows: one row is the work of one thread
        int8_peak, float_peak    multiply-adds of the bare instructions in registers
        disk                     bytes, direct reads of `size` bytes with `threads` of them in flight
        disk_write               the same written, one after the other
        lookup                   the same for `LOOKUP_BYTES`, which wait for the disk to answer and not for it to send
        barrier, call            barriers of the thread pool; empty native calls
        turn                     phases of the least product that all threads share, with weights from RAM: what an op
                                 costs however small it is
        attend/FORMAT            bytes of cache read by decode attention, `size` query heads on each key head
        attend_start/FORMAT      key heads of a sequence that decode attention begins, `size` query heads on each: the
                                 new token is rotated and stored, and a page of the cache read
        attend_many/FORMAT       multiply-adds of attention over many new tokens, that see `size` positions in the mean,
                                 with rotating and storing them
        attend_rounded/FORMAT    the same with products in integers
        attend_brain/FORMAT      the same in tiles of bfloat16
        aten                     calls of PyTorch's own library, from Python, whatever they compute
        aten/WHAT                the same by what they compute: values (simple ones), curve (gelu and its like),
                                 reduction (sums, norms), window (of pictures), sort, `size` of them; multiply-adds of a
                                 product of `size` rows, a convolution or a grouped one of `size` of them, attention
                                 (product_bf16, convolution_bf16, attention_bf16: in that arithmetic)
        leaf                     packed leaves of a module, between two calls of ATen, whatever they compute
        leaf/outputs             their outputs, beside what grows with the columns of their weights
        expand/FORMAT            values expanded or rounded while packing
        cuda/read, cuda/matmul/DTYPE     the graphics card's own
        cuda/h2d_pinned, cuda/h2d_pageable, cuda/d2h_pinned     bytes copied to the card, and back
    """

    what: str
    low: float
    mid: float
    high: float
    threads: int = 1
    size: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """A place that computes: `kind` is "cpu" or "cuda"; `memory_bytes` is what a process may use of it."""

    name: str
    kind: str
    memory_bytes: int
    threads: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """Devices, memory, disk and rates; `origin` says whether they were measured here or come from a data sheet.

    `fingerprint` identifies the hardware (CPU model, cores allowed, memory, disk device), `digest` this very record.
    `process_bytes` is the resident size of an interpreter with the runtime's libraries and nothing loaded.
    """

    name: str
    origin: Literal["measured", "quick", "catalog"]
    fingerprint: str
    devices: tuple[Device, ...]
    rates: tuple[Rate, ...]
    process_bytes: int
    disk_free_bytes: int
    direct_io: bool
    notes: tuple[str, ...] = ()

    @property
    def cpu(self) -> Device:
        return self.devices[0]

    @property
    def card(self) -> Device | None:
        """The graphics card that stands beside the processor."""
        return next((device for device in self.devices[1:] if device.kind == "cuda"), None)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def _by_what(self) -> dict[str, list[Rate]]:
        found: dict[str, list[Rate]] = {}
        for rate in self.rates:
            found.setdefault(rate.what, []).append(rate)
        return found

    def sizes(self, what: str) -> list[int]:
        """Every size at which the rate of `what` is known, the smallest first."""
        return sorted({rate.size for rate in self._by_what.get(what, ())})

    def rate(self, what: str, *, threads: int | None = None, size: int | None = None) -> Rate | None:
        """The rate of `what` with this many threads (the nearest below, else the fewest) and the nearest size."""
        found: Sequence[Rate] = self._by_what.get(what, ())
        if threads is not None and found:
            below = [rate.threads for rate in found if rate.threads <= threads]
            chosen = max(below) if below else min(rate.threads for rate in found)
            found = [rate for rate in found if rate.threads == chosen]
        if not found:
            return None
        return found[0] if size is None else min(found, key=lambda rate: abs(rate.size - size))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Machine:
        """Raises BadInput when keys are missing or of another kind."""
        try:
            fields = dict(data)
            fields["devices"] = tuple(
                Device(**{**device, "features": tuple(device["features"])}) for device in data["devices"]
            )
            fields["rates"] = tuple(Rate(**rate) for rate in data["rates"])
            fields["notes"] = tuple(data.get("notes", ()))
            machine = cls(**fields)
        except (KeyError, TypeError) as error:
            raise BadInput(f"not a machine record: {error}") from error
        need(len(machine.devices) > 0, "a machine record without a device")
        return machine
