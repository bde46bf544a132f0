"""Whether a manifest can be what a packer wrote: every number in its range, every strip of every weight in one place.

The digest shows accidents; this bounds what a manifest made by somebody else can do. Native code checks again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pintpot.contract.form import LEFT_BYTES, PAGE_TOKENS, STRIP_ROWS, Form, RingForm, WeightForm
from pintpot.contract.targets import VOCABULARY_ROLES
from pintpot.errors import need
from pintpot.formats import encoding
from pintpot.machine.spec import CACHE_FORMATS
from pintpot.nets import check_parts
from pintpot.packer.types import check_types
from pintpot.planner.plan import Plan
from pintpot.program.fetch import ALIGN
from pintpot.program.ops.linear import PLANES

if TYPE_CHECKING:
    from pintpot.packer.manifest import Manifest

MOST_BYTES = 1 << 50
MOST_TOKENS = 1 << 28
MOST_THREADS = 1 << 12


def check_sound(manifest: Manifest, check_bytes: int) -> None:
    """Raises BadInput with what cannot be; `check_bytes` of the resident region share a checksum."""
    check_types(manifest, "manifest")
    known = manifest.sample_digest
    need(not known or (known.isascii() and known.isalnum()), f"a digest of data of {known!r:.60}")
    _check_plan(manifest.plan, manifest.context)
    _check_form(manifest.plan.form)
    weights = {weight.name: weight for weight in manifest.plan.form.weights}
    _check_regions(manifest, check_bytes)
    placed = _check_residents(manifest, weights)
    _check_slots(manifest, weights, placed)
    for weight in weights.values():
        due = weight.num_strips if weight.is_matrix else 0
        need(placed[weight.name] == due, f"{weight.name} has {placed[weight.name]} strips of {due}")


def _check_plan(plan: Plan, context: int) -> None:
    workload = plan.budget.workload
    need(workload.context <= context, f"a context of {workload.context} is beyond the model's {context}")
    need(0 < context <= MOST_TOKENS, f"a model with a context of {context}")
    need(workload.batch <= MOST_TOKENS // workload.context, f"a batch of {workload.batch}")
    need(0 <= workload.guesses <= MOST_TOKENS, f"{workload.guesses} guesses in a step")
    need(workload.prompt <= MOST_TOKENS and workload.output <= MOST_TOKENS, "a prompt or answer without end")
    need(0 < plan.threads <= MOST_THREADS, f"{plan.threads} threads")
    check_parts(plan.parts, plan.form)


def _check_form(form: Form) -> None:
    need(0 < form.chunk <= MOST_TOKENS, f"chunks of {form.chunk} tokens")
    need({form.activation.prefill, form.activation.decode} <= set(PLANES), f"activations in {form.activation!r:.120}")
    cache = form.cache
    need(cache.format in (*CACHE_FORMATS, "f32") and cache.page_tokens == PAGE_TOKENS, f"a cache of {cache}")
    sizes = (cache.window, cache.sinks, cache.lent)
    need(all(0 <= size <= MOST_TOKENS for size in sizes) and not (cache.window and cache.lent), f"a cache of {cache}")
    if form.ring is not None:
        _check_ring(form.ring)
    need(len({weight.name for weight in form.weights}) == len(form.weights), "a weight comes twice")
    for weight in form.weights:
        _check_weight(weight)


def _check_ring(ring: RingForm) -> None:
    need(0 < ring.slot_bytes <= MOST_BYTES and ring.slot_bytes % ALIGN == 0, f"slots of {ring.slot_bytes} bytes")
    need(1 <= ring.in_flight < ring.num_slots <= MOST_TOKENS, f"{ring.num_slots} slots, {ring.in_flight} in flight")


def _check_weight(weight: WeightForm) -> None:
    name = weight.name
    good = len(weight.shape) in (1, 2) and all(0 < axis < MOST_TOKENS for axis in weight.shape)
    need(good, f"{name} has the shape {weight.shape}")
    need(0 < weight.experts <= weight.shape[0], f"{name} is of {weight.experts} experts")
    divided = weight.experts == 1 or (weight.is_matrix and weight.shape[0] % (STRIP_ROWS * weight.experts) == 0)
    need(divided, f"{name}: {weight.shape[0]} rows are not of {weight.experts} experts")
    need(0 <= weight.ram_rows <= weight.rows, f"{name}: {weight.ram_rows} of {weight.rows} rows in RAM")
    kernel = encoding(weight.format).is_kernel and encoding(weight.source).is_source
    need(kernel and (weight.is_matrix or weight.format in LEFT_BYTES), f"{name}: no kernel reads {weight.format}")
    whole = not weight.is_matrix or encoding(weight.format).fits(weight.shape[1])
    need(whole, f"{name}: {weight.shape[-1]} columns are no whole blocks of {weight.format}")
    most = weight.shape[-1] if name not in VOCABULARY_ROLES else 0
    need(encoding(weight.format).num_apart <= most, f"{name}: columns of {weight.format} beyond {most}")


def _check_regions(manifest: Manifest, check_bytes: int) -> None:
    start, size, end = manifest.resident_offset, manifest.resident_bytes, manifest.file_bytes
    aligned = start % ALIGN == 0 and size % ALIGN == 0 and end % ALIGN == 0
    need(aligned and 0 < start <= end <= MOST_BYTES and 0 <= size <= end - start, "a resident region outside the file")
    due = -(-size // check_bytes)
    need(len(manifest.resident_crcs) == due, f"{len(manifest.resident_crcs)} checksums of {due}")
    crcs = (*manifest.resident_crcs, *(crc for _, crc, _ in manifest.slots))
    need(all(isinstance(crc, int) and 0 <= crc < 1 << 32 for crc in crcs), "a checksum that none can be")
    passing, slots = manifest.num_passing, len(manifest.slots)
    need(0 <= passing <= slots, f"{passing} slots of {slots} pass")


def _check_residents(manifest: Manifest, weights: dict[str, WeightForm]) -> dict[str, int]:
    """The strips of each weight that are in RAM."""
    end, placed = 0, dict.fromkeys(weights, 0)
    listed = {item.name for item in manifest.residents}
    for item in manifest.residents:
        need(item.name in weights, f"nobody knows the weight {item.name!r:.60}")
        weight = weights[item.name]
        need(item.num_bytes == weight.ram_bytes > 0, f"{item.name} has {item.num_bytes} bytes of {weight.ram_bytes}")
        need(item.offset >= end and item.offset % 64 == 0, f"{item.name} lies over another weight")
        end = item.offset + item.num_bytes
        placed[item.name] += weight.experts * weight.ram_strips if weight.is_matrix else 0
    need(end <= manifest.resident_bytes, "weights beyond the resident region")
    lacking = [name for name, weight in weights.items() if weight.ram_bytes and name not in listed]
    need(not lacking, f"no place for {lacking[:3]}")
    return placed


def _check_slots(manifest: Manifest, weights: dict[str, WeightForm], placed: dict[str, int]) -> None:
    """Slots follow each other to the end of the file, and the strips of a weight follow each other in them."""
    end = manifest.resident_offset + manifest.resident_bytes
    for offset, _, slot in manifest.slots:
        need(offset == end and slot.num_bytes > 0 and slot.num_bytes % ALIGN == 0, f"a slot at {offset}, not at {end}")
        end += slot.num_bytes
        used = 0
        for piece in slot.pieces:
            need(piece.weight in weights, f"nobody knows the weight {piece.weight!r:.60}")
            weight = weights[piece.weight]
            need(weight.is_matrix and piece.num_strips > 0, f"a piece of {piece.num_strips} strips of {piece.weight}")
            inside = placed[piece.weight] - weight.experts * weight.ram_strips
            expert, strip = divmod(inside, max(1, weight.expert_strips - weight.ram_strips))
            due = expert * weight.expert_strips + weight.ram_strips + strip
            need(piece.first_strip == due, f"{piece.weight}: strips out of order")
            left = weight.expert_strips - weight.ram_strips - strip
            need(piece.num_strips <= left, f"{piece.weight}: a piece of two experts")
            need(piece.offset >= used, f"{piece.weight} lies over another weight")
            used = piece.offset + piece.num_strips * weight.strip_bytes
            need(used <= slot.num_bytes, f"{piece.weight} reaches beyond its slot")
            placed[piece.weight] += piece.num_strips
    need(end == manifest.file_bytes, f"slots up to {end} in a file of {manifest.file_bytes} bytes")
