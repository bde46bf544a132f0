"""Memory by what holds it. No holder is a remainder: each is computed, or measured alone.

What `prove` measured on this machine for this model (`Question.measured_bytes`) takes the place of an estimate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import prod

from pintpot.budget import Workload
from pintpot.contract.form import Form, RingForm
from pintpot.contract.training import TrainingForm, block_of, held_bytes
from pintpot.formats import encoding, num_strips
from pintpot.model.tokens.memory import REMEMBERED_BYTES, loaded_bytes, loading_peak_bytes
from pintpot.planner.cost import Holder
from pintpot.planner.names import (
    ACTIVATIONS,
    ADAPTERS,
    AHEAD,
    ASIDE,
    BETWEEN,
    BUFFERS,
    CACHE,
    CARD,
    EXAMPLES,
    GRADIENTS,
    INPUTS,
    INSIDE,
    LOADER,
    OPTIMIZER,
    PROCESS,
    RING,
    TABLES,
    TOKENIZER,
    TORCH,
    WEIGHTS,
)
from pintpot.planner.question import Question
from pintpot.program.layout import lay_out
from pintpot.program.spec import Work

PROCESS_SPREAD_BYTES = 2_000_000
"""How far the resident size of one and the same process strays from run to run."""
TORCH_SPREAD = 1.08
"""How far PyTorch strays from what a process of its own held that had run a little of it, to either side."""
MEASURED_SPREAD_BYTES = 500_000
"""The same for a holder that was measured on this machine with this model."""
MANIFEST_BYTES_PER_WEIGHT = 6_000
"""What the interpreter holds for each weight: its line of the manifest, its form, its buffers and ops."""
STRIP_BYTES = 128
"""What the engine holds for each strip of 16 rows: a chunk of work in each of two programs."""
SLOT_BYTES = 700
"""What a slot of streamed weights takes: its line of the manifest, its pieces, the reader's own."""
PAGE_BYTES = 4096
ARGUMENT_BYTES = 12
"""A position of a sequence in the arguments of both stages (for the penalty), and in what the engine knows of it."""
WORD_BYTES = 48
"""A position of a sequence as the interpreter has it while it is worked on: a prompt's ids, an answer's text."""
SEQUENCE_BYTES = 4096
"""The same for a sequence whatever its length."""
LEARNING_BYTES, LEARNING_SHARE = 100_000_000, 0.5
"""While a model learns, what PyTorch keeps of what it has freed and takes inside its calls: so many bytes, and so
many times the buffers; half as many bytes where no way leads back. Told from SmolLM2 at budgets of 0.5 to 3 GB."""
PASSING_BYTES, PASSING_VALUE = 90_000_000, 4
"""The same where blocks rest on disk, and one takes the memory of another, with what is left of the tokenizer: so many
bytes, and so many a value of a block. Told from SmolLM2 at 420 to 900 MB, and from the model of
benchmarks/tuning_large.py at 700 to 1,400, with 64 to 2,048 tokens."""
STAYING_SHARE = 0.1
"""Where the inside of blocks stays: what lies idle between what stays, of all that is kept."""

GOING_SHARE = 0.5
"""Where the inside of blocks is written out: the memory that one was made in beside that which it goes by."""
BETWEEN_BYTES, COPIES_BETWEEN = 60_000_000, 3
"""Processes that learn together: torch.distributed and what it imports; a matrix on its way, in pieces and whole."""


def constant_holders(question: Question) -> tuple[Holder, ...]:
    """What no choice changes: the process, what reads its inputs or runs its module, and what opening leaves behind."""
    weights = [weight for part in question.model.parts for weight in part.weights()]
    strips = sum(num_strips(weight.shape[0]) for weight in weights if len(weight.shape) == 2)
    most = MANIFEST_BYTES_PER_WEIGHT * len(weights) + STRIP_BYTES * strips
    return (*_libraries(question), *_inputs(question), _measured(question, LOADER, (most // 2, most)))


def with_slots(constant: tuple[Holder, ...], most_slots: int) -> tuple[Holder, ...]:
    """What opening leaves behind grows with the table of streamed slots."""
    table = SLOT_BYTES * most_slots
    return tuple(Holder(h.name, h.low, h.high + table) if h.name == LOADER else h for h in constant)


def work_holders(
    sizes: Mapping[str, int], scratch_bytes: int, workload: Workload, inside_bytes: int = 0
) -> tuple[Holder, ...]:
    """What the work itself needs beside the weights; `sizes` are a layout's, by holder, `inside_bytes` of its calls."""
    exact = sizes["buffers"] + _whole_pages(scratch_bytes) + ARGUMENT_BYTES * workload.batch * workload.context
    words = workload.batch * (WORD_BYTES * workload.context + SEQUENCE_BYTES)
    return (
        _exactly(CACHE, sizes.get("cache", 0)),
        Holder(BUFFERS, exact, exact + words),
        _exactly(TABLES, sizes.get("tables", 0)),
        *((Holder(INSIDE, 0, inside_bytes),) if inside_bytes else ()),
    )


def lent_page_bytes(form: Form, work: Work, sizes: Mapping[str, int]) -> int:
    """Bytes of a page of a cache that sequences share: so much memory is needed to move one; 0 for other caches."""
    if not form.cache.lent:
        return 0
    return _whole_pages(sizes["cache"] // work.stage("prefill").widest.bound("pages"))


def again_bytes(work: Work) -> int:
    """Bytes of a block's inside that is computed again where that of another one has stayed."""
    found = dict[str, int]()
    for program in (program for stage in work.stages if stage.name == "backward" for program in stage.programs):
        names = (name for op in program.ops for role, name in op.writes if op.kind == "forward" and role == "saved")
        found |= {name: prod(program.shape(name)) for name in names if program.by_name[name].life == "session"}
    return sum(found.values())


def learning_holders(
    question: Question, work: Work, form: Form, data_bytes: int, ahead: tuple[int, int]
) -> tuple[Holder, ...]:
    """What a process holds in which a model learns: by the buffers that outlast a replay, and what is beside them.

    `ahead` are the bytes of weights that pass by, and of moments that do.
    """
    sizes = lay_out(work).sizes
    ahead_bytes, moments_bytes = ahead
    how = form.training
    resident = sum(held_bytes(weight, how) for weight in form.weights if weight.ram_rows or not weight.is_matrix)
    buffers, idle = sizes["buffers"], GOING_SHARE * sizes.get(ASIDE, 0)
    if moments_bytes:
        values = _most_values(form)
        idle += PASSING_BYTES + PASSING_VALUE * values + _joining_bytes(question, form, values)
        idle -= min(PASSING_BYTES / 2, sum(one.high for one in _libraries(question) if one.name == TOKENIZER))
    else:
        idle += LEARNING_BYTES * (0.5 if how and how.distance else 1.0) + LEARNING_SHARE * (buffers + again_bytes(work))
        idle += STAYING_SHARE * sizes.get("activations", 0) if how and how.stays else 0.0
    return (
        *_libraries(question),
        *_inputs(question),
        _exactly(EXAMPLES, data_bytes),
        *((_between(form, how),) if how is not None and how.ranks > 1 else ()),
        _exactly(WEIGHTS, resident),
        *((_exactly(AHEAD, ahead_bytes),) if ahead_bytes else ()),
        *((Holder(CARD, sizes[CARD] // 4, sizes[CARD]),) if CARD in sizes else ()),
        _exactly(ADAPTERS, sizes.get("adapters", 0)),
        _exactly(GRADIENTS, sizes.get("gradients", 0)),
        _exactly(OPTIMIZER, sizes.get("optimizer", 0) + moments_bytes),
        _exactly(ACTIVATIONS, sizes.get("activations", 0)),
        *((_exactly(ASIDE, sizes[ASIDE]),) if ASIDE in sizes else ()),
        Holder(BUFFERS, buffers // 2, buffers),
        _exactly(TABLES, sizes.get("tables", 0)),
        Holder(INSIDE, round(min(LEARNING_BYTES, idle) / 2), round(idle)),
    )


def _most_values(form: Form) -> int:
    """Of one block's weights that learn."""
    blocks, how = defaultdict[str, int](int), form.training
    for weight in form.weights:
        if how is not None and how.changes(weight) and "." in weight.name:
            blocks[block_of(weight.name)] += prod(weight.shape)
    return max(blocks.values(), default=0)


def _joining_bytes(question: Question, form: Form, values: int) -> int:
    """Gradients of a block by some of a step's sequences, as they join those by the others in float32; 0 for all."""
    how, train = form.training, question.budget.workload.train
    parted = how is not None and train is not None and how.at_once < train.sequences
    return encoding(how.computed_in).row_bytes(values) if how is not None and parted else 0


def _between(form: Form, how: TrainingForm) -> Holder:
    """What processes that learn together need for it: the largest matrix on its way, too."""
    passing = COPIES_BETWEEN * max((4 * prod(one.shape) for one in form.weights if how.divides(one)), default=0)
    return Holder(BETWEEN, BETWEEN_BYTES // 2, BETWEEN_BYTES + passing)


def all_holders(
    fixed: tuple[Holder, ...], ram_bytes: int, ring: RingForm | None, loading_bytes: int
) -> tuple[Holder, ...]:
    """With the weights that stay in RAM, and the ring through which the others pass.

    Where everything that comes after the tokenizer is smaller than what loading it took, the loader's peak is that.
    """
    weights = _exactly(WEIGHTS, ram_bytes)
    held = (weights, _exactly(RING, ring.num_bytes)) if ring else (weights,)
    short = loading_bytes - sum(holder.high for holder in fixed + held)
    if short > 0:
        fixed = tuple(Holder(h.name, h.low, h.high + short) if h.name == LOADER else h for h in fixed)
    return fixed + held


def loading_bytes(question: Question) -> int:
    """What the process holds while the tokenizer is loaded, before anything else is; most of it is given back."""
    info = question.model.tokenizer
    most = 0 if info is None else loading_peak_bytes(info.vocab_size, info.num_merges)
    return sum(max(most, h.high) if h.name == TOKENIZER else h.high for h in _libraries(question))


def _libraries(question: Question) -> Iterator[Holder]:
    """The process, and beside it PyTorch where a module is run, and the tokenizer where there is one."""
    size, info = question.machine.process_bytes, question.model.tokenizer
    yield _measured(question, PROCESS, (max(0, size - PROCESS_SPREAD_BYTES), size + PROCESS_SPREAD_BYTES))
    if question.model.needs_torch or question.budget.workload.train is not None:
        more = max(0, question.torch_bytes - size)
        yield _measured(question, TORCH, (round(more / TORCH_SPREAD), round(more * TORCH_SPREAD)))
    if info is not None:
        estimate = loaded_bytes(info.vocab_size, info.num_merges)
        yield _measured(question, TOKENIZER, estimate, REMEMBERED_BYTES)


def _inputs(question: Question) -> tuple[Holder, ...]:
    """What makes inputs of a person's files and texts, where a module has a kind that reads them."""
    kinds = (part.config.get("kind") for part in question.model.parts)
    most = max((int(about["memory_bytes"]) for about in kinds if about is not None), default=None)
    return () if most is None else (Holder(INPUTS, 0, most),)


def _measured(question: Question, name: str, estimate: tuple[int, int], growth_bytes: int = 0) -> Holder:
    """A holder as it was measured, a little more to either side; as it is estimated where it never was.

    By `growth_bytes` it may grow for as long as it is used, which no measurement waits for and the estimate holds.
    """
    if name not in question.measured_bytes:
        return Holder(name, *estimate)
    low, high = question.measured_bytes[name]
    return Holder(name, max(0, low - MEASURED_SPREAD_BYTES), high + growth_bytes + MEASURED_SPREAD_BYTES)


def _exactly(name: str, num_bytes: int) -> Holder:
    return Holder(name, num_bytes, num_bytes)


def _whole_pages(num_bytes: int) -> int:
    return -(-num_bytes // PAGE_BYTES) * PAGE_BYTES
