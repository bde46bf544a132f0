"""Memory by what holds it. No holder is a remainder: each is computed, or measured alone.

What `prove` measured on this machine for this model (`Question.measured_bytes`) takes the place of an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping

from pintpot.contract.form import Form
from pintpot.model.tokens.memory import estimated_bytes, loaded_bytes
from pintpot.planner.cost import Holder
from pintpot.planner.question import Question

PROCESS = "interpreter and libraries"
TOKENIZER = "tokenizer"
WEIGHTS = "weights in RAM"
RING = "ring for streamed weights"
CACHE = "cache"
BUFFERS = "buffers"
TABLES = "tables"
LOADER = "opening the pack"

PROCESS_SPREAD_BYTES = 2_000_000
"""How far the resident size of one and the same process strays from run to run."""
MANIFEST_BYTES_PER_WEIGHT = 6_000
"""What the interpreter holds for each weight: its line of the manifest, its form, its buffers and ops."""
PAGE_BYTES = 4096


def fixed_holders(question: Question, sizes: Mapping[str, int], scratch_bytes: int) -> tuple[Holder, ...]:
    """Everything that a process holds beside the weights; `sizes` are a layout's, by holder."""
    manifest = MANIFEST_BYTES_PER_WEIGHT * sum(len(block.weights) for p in question.model.parts for block in p.blocks)
    return (
        _process(question),
        _tokenizer(question),
        _exactly(CACHE, sizes.get("cache", 0)),
        _exactly(BUFFERS, sizes["buffers"] + _whole_pages(scratch_bytes)),
        _exactly(TABLES, sizes.get("tables", 0)),
        Holder(LOADER, *question.measured_bytes.get(LOADER, (manifest // 2, manifest))),
    )


def all_holders(fixed: tuple[Holder, ...], form: Form, loading_bytes: int) -> tuple[Holder, ...]:
    """With the weights that stay in RAM, and the ring through which the others pass.

    Where everything that comes after the tokenizer is smaller than what loading it took, the loader's peak is that.
    """
    weights = _exactly(WEIGHTS, form.ram_bytes)
    held = (weights, _exactly(RING, form.ring.num_bytes)) if form.ring else (weights,)
    short = loading_bytes - sum(holder.high for holder in fixed + held)
    if short > 0:
        fixed = tuple(Holder(h.name, h.low, h.high + short) if h.name == LOADER else h for h in fixed)
    return fixed + held


def loading_bytes(question: Question) -> int:
    """What the process holds while the tokenizer is loaded, before anything else is; most of it is given back."""
    info = question.model.tokenizer
    _, most = estimated_bytes(info.vocab_size, info.num_merges)
    return _process(question).high + max(most, _tokenizer(question).high)


def _process(question: Question) -> Holder:
    size = question.machine.process_bytes
    span = (max(0, size - PROCESS_SPREAD_BYTES), size + PROCESS_SPREAD_BYTES)
    return Holder(PROCESS, *question.measured_bytes.get(PROCESS, span))


def _tokenizer(question: Question) -> Holder:
    info = question.model.tokenizer
    return Holder(TOKENIZER, *question.measured_bytes.get(TOKENIZER, loaded_bytes(info.vocab_size, info.num_merges)))


def _exactly(name: str, num_bytes: int) -> Holder:
    return Holder(name, num_bytes, num_bytes)


def _whole_pages(num_bytes: int) -> int:
    return -(-num_bytes // PAGE_BYTES) * PAGE_BYTES
