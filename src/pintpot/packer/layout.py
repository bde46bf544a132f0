"""Where every byte of a pack's weight file lies: what stays in RAM first, then the slots in the order of their reading.

    safetensors header, padded to 4096 | resident region, padded to 4096 | slots, each padded to 4096

Every byte after the header belongs to a tensor, so that any safetensors reader accepts the file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby

from pintpot.contract.form import Form, WeightForm
from pintpot.program.fetch import ALIGN, Slot, lay_slots
from pintpot.program.spec import Work

TILE_BYTES = 64
LOOKUP_SLOT_BYTES = 1 << 20
"""A slot of looked-up rows is verified whole when the first of its rows is read."""


@dataclass(frozen=True, slots=True)
class Resident:
    """What of one weight stays in RAM: `num_bytes` at `offset` of the resident region."""

    name: str
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Offsets from the start of the file.

    The first `num_passing` slots are read in order by every pass; the others hold weights of which single rows are
    looked up by token.
    """

    header: bytes
    resident_offset: int
    resident_bytes: int
    residents: tuple[Resident, ...]
    slots: tuple[Slot, ...]
    slot_offsets: tuple[int, ...]
    num_passing: int
    num_bytes: int


def lay_out_file(form: Form, work: Work) -> FileLayout:
    """The layout of a form's weights, streamed strips in the order in which the stages fetch them."""
    residents, resident_end = _residents(form)
    passing = _passing(form, work, form.ring.slot_bytes) if form.ring else ()
    slots = passing + lay_slots(_looked_up(form, passing), LOOKUP_SLOT_BYTES)
    tensors = _resident_tensors(form, residents, resident_end)
    tensors += [(f"slot.{index:06d}", "U8", [slot.num_bytes], slot.num_bytes) for index, slot in enumerate(slots)]
    header = _header(tensors)
    offsets, at = [], len(header) + _aligned(resident_end)
    for slot in slots:
        offsets.append(at)
        at += slot.num_bytes
    region = _aligned(resident_end)
    return FileLayout(header, len(header), region, residents, slots, tuple(offsets), len(passing), at)


def _residents(form: Form) -> tuple[tuple[Resident, ...], int]:
    placed, at = [], 0
    for weight in form.weights:
        if weight.ram_bytes:
            placed.append(Resident(weight.name, at, weight.ram_bytes))
            at += -(-weight.ram_bytes // TILE_BYTES) * TILE_BYTES
    return tuple(placed), at


def _passing(form: Form, work: Work, slot_bytes: int) -> tuple[Slot, ...]:
    """Slots that passes read, in the order of the stages.

    What not all of them need has slots of its own, and so has each expert for each op, for most are not chosen.
    """
    weights = {weight.name: weight for weight in form.weights}
    users: dict[str, set[tuple[str, bool]]] = {}
    choosers: dict[str, int] = {}
    for stage in work.stages:
        number = 1
        for op in stage.programs[0].ops:
            number += op.kind != "fetch"
            if op.kind == "fetch" and not op.get("per_token"):
                users.setdefault(str(op.read("weight")), set()).add((stage.name, bool(op.get("over_rows"))))
                choosers.setdefault(str(op.read("weight")), number if op.get("experts") else 0)
    slots: tuple[Slot, ...] = ()
    for (_, routed), names in groupby(users, key=lambda name: (users[name], choosers[name])):
        ordered = [weights[name] for name in names]
        left = [(w.name, w.expert_strips - w.ram_strips, w.strip_bytes) for w in ordered]
        firsts = zip(*(w.runs()[1] for w in ordered), strict=True) if routed else [[w.ram_strips for w in ordered]]
        for begins in firsts:
            strips = [(name, first, *rest) for (name, *rest), first in zip(left, begins, strict=True)]
            slots += lay_slots(strips, slot_bytes)
    return slots


def _looked_up(form: Form, passing: tuple[Slot, ...]) -> tuple[tuple[str, int, int, int], ...]:
    streamed = {piece.weight for slot in passing for piece in slot.pieces}
    weights = [weight for weight in form.weights if weight.disk_bytes and weight.name not in streamed]
    return tuple((w.name, w.ram_strips, w.num_strips - w.ram_strips, w.strip_bytes) for w in weights)


def _resident_tensors(form: Form, residents: tuple[Resident, ...], end: int) -> list[tuple[str, str, list[int], int]]:
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
    return (
        ("U8", [weight.experts * weight.ram_strips, weight.strip_bytes])
        if weight.is_matrix
        else ("F32", [weight.shape[0]])
    )


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
