"""Memory by what holds it. No holder is a remainder: each is computed, or measured alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import lru_cache

from pintpot.contract.form import Form
from pintpot.model.tokens.memory import estimated_bytes
from pintpot.planner.cost import Holder
from pintpot.planner.question import Question
from pintpot.program.layout import lay_out
from pintpot.program.scratch import scratch_bytes
from pintpot.program.spec import Work

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


@lru_cache(maxsize=256)
def _laid_out(key: Hashable, work: _Unhashed, threads: int) -> tuple[Mapping[str, int], int]:
    sizes = lay_out(work.work).sizes
    return sizes, max(scratch_bytes(program, threads) for program in work.work.programs())


class _Unhashed:
    """A work that rides along beside its key."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashed) and (self.work.key is not None or self.work == other.work)


def fixed_holders(question: Question, work: Work) -> tuple[Holder, ...]:
    """Everything that a process holds beside the weights."""
    sizes, scratch = _laid_out(work.key, _Unhashed(work), question.threads)
    process = question.machine.process_bytes
    info = question.model.tokenizer
    low, high = estimated_bytes(info.vocab_size, info.num_merges)
    manifest = MANIFEST_BYTES_PER_WEIGHT * sum(len(part.blocks) * 9 for part in question.model.parts)
    return (
        Holder(PROCESS, process - PROCESS_SPREAD_BYTES, process + PROCESS_SPREAD_BYTES),
        Holder(TOKENIZER, low, high),
        Holder(CACHE, sizes.get("cache", 0), sizes.get("cache", 0)),
        Holder(BUFFERS, sizes["buffers"] + scratch, sizes["buffers"] + scratch),
        Holder(TABLES, sizes.get("tables", 0), sizes.get("tables", 0)),
        Holder(LOADER, manifest // 2, manifest),
    )


def weight_holders(form: Form) -> tuple[Holder, ...]:
    """The weights that stay in RAM, and the ring through which the others pass."""
    ring = form.ring.num_bytes if form.ring else 0
    held = Holder(WEIGHTS, form.ram_bytes, form.ram_bytes)
    return (held, Holder(RING, ring, ring)) if ring else (held,)
