"""Where every byte of a pack's weight file lies: what stays in RAM first, then the slots in the order of their reading.

    safetensors header, padded to 4096 | resident region, padded to 4096 | slots, each padded to 4096 | looked-up rows

Every byte after the header belongs to a tensor, so that any safetensors reader accepts the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from pintpot.contract.form import Form, WeightForm
from pintpot.program.fetch import ALIGN, Slot, lay_slots
from pintpot.program.spec import Work

TILE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Resident:
    """What of one weight stays in RAM: `num_bytes` at `offset` of the resident region."""

    name: str
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Offsets from the start of the file. `lookups` are whole weights of which single rows are read by token."""

    header: bytes
    resident_offset: int
    resident_bytes: int
    residents: tuple[Resident, ...]
    slots: tuple[Slot, ...]
    slot_offsets: tuple[int, ...]
    lookups: tuple[tuple[str, int, int], ...]
    num_bytes: int


def lay_out_file(form: Form, work: Work) -> FileLayout:
    """The layout of a form's weights, streamed strips in the order in which a decode step fetches them."""
    residents, resident_end = _residents(form)
    slots = lay_slots(_streamed(form, work), form.ring.slot_bytes) if form.ring else ()
    passing = {piece.weight for slot in slots for piece in slot.pieces}
    lookups = [weight for weight in form.weights if weight.disk_bytes and weight.name not in passing]
    tensors: list[tuple[str, str, list[int], int]] = []
    tensors += _resident_tensors(form, residents, resident_end)
    tensors += [(f"slot.{index:06d}", "U8", [slot.num_bytes], slot.num_bytes) for index, slot in enumerate(slots)]
    for weight in lookups:
        tensors.append((weight.name, "U8", [weight.num_strips, weight.strip_bytes], weight.disk_bytes))
        tensors += _pad(weight.name, weight.disk_bytes)
    header = _header(tensors)
    slot_offsets, at = [], len(header) + _aligned(resident_end)
    for slot in slots:
        slot_offsets.append(at)
        at += slot.num_bytes
    places = []
    for weight in lookups:
        places.append((weight.name, at, weight.disk_bytes))
        at += _aligned(weight.disk_bytes)
    region = _aligned(resident_end)
    return FileLayout(header, len(header), region, residents, slots, tuple(slot_offsets), tuple(places), at)


def _residents(form: Form) -> tuple[tuple[Resident, ...], int]:
    placed, at = [], 0
    for weight in form.weights:
        if weight.ram_bytes:
            placed.append(Resident(weight.name, at, weight.ram_bytes))
            at += -(-weight.ram_bytes // TILE_BYTES) * TILE_BYTES
    return tuple(placed), at


def _streamed(form: Form, work: Work) -> tuple[tuple[str, int, int, int], ...]:
    weights = {weight.name: weight for weight in form.weights}
    fetches = [op for op in work.stage("decode").programs[0].ops if op.kind == "fetch" and not op.get("per_token")]
    ordered = [weights[str(op.read("weight"))] for op in fetches]
    return tuple((w.name, w.ram_strips, w.num_strips - w.ram_strips, w.strip_bytes) for w in ordered)


def _resident_tensors(
    form: Form, residents: tuple[Resident, ...], end: int
) -> list[tuple[str, str, list[int], int]]:
    weights = {weight.name: weight for weight in form.weights}
    tensors: list[tuple[str, str, list[int], int]] = []
    for index, item in enumerate(residents):
        weight = weights[item.name]
        tensors.append((item.name, *_shape(weight), item.num_bytes))
        stop = residents[index + 1].offset if index + 1 < len(residents) else _aligned(end)
        hole = stop - item.offset - item.num_bytes
        if hole:
            tensors.append((f"pad.{item.name}", "U8", [hole], hole))
    return tensors


def _shape(weight: WeightForm) -> tuple[str, list[int]]:
    return ("U8", [weight.ram_strips, weight.strip_bytes]) if weight.is_matrix else ("F32", [weight.shape[0]])


def _pad(name: str, num_bytes: int) -> list[tuple[str, str, list[int], int]]:
    hole = _aligned(num_bytes) - num_bytes
    return [(f"pad.{name}", "U8", [hole], hole)] if hole else []


def _header(tensors: list[tuple[str, str, list[int], int]]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pintpot"}}
    at = 0
    for name, dtype, shape, num_bytes in tensors:
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + num_bytes]}
        at += num_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The format allows spaces behind the JSON; they bring the data to a whole page.
    padded = text.ljust(_aligned(len(text) + 8) - 8)
    return len(padded).to_bytes(8, "little") + padded


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGN) * ALIGN
