"""The unpacked model, streamed: float32 arithmetic over weights read some rows at a time, all texts in one pass.

This is what a packed model's answers are compared with. Nothing of the packed path is used but the program itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pintpot.budget import Workload
from pintpot.contract.form import CacheForm, source_form
from pintpot.formats.source import decode
from pintpot.kernels.reference import Call, Memory, run
from pintpot.kernels.reference.linear import rms_norm
from pintpot.model.spec import Model, Weight
from pintpot.model.store import Store
from pintpot.nets import family
from pintpot.nets._rope import rope_table
from pintpot.program.spec import Op, Program

Floats = NDArray[np.float32]
ROW_CHUNK_BYTES = 2 << 20
BASE_BYTES = 75_000_000
"""An interpreter with numpy, its buffers for products, and a chunk of rows on its way."""
ARRAYS_PER_TOKEN = 6
"""How many arrays of the widest activation are alive at once, the temporary ones of numpy among them."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RowSource:
    """A weight read from its file in runs of rows, decoded to float32; iterating gives (first row, rows [n, K])."""

    store: Store
    weight: Weight

    @property
    def rows_per_chunk(self) -> int:
        return max(1, ROW_CHUNK_BYTES // (4 * self.weight.shape[1]))

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        num_rows, columns = self.weight.shape
        for first in range(0, num_rows, self.rows_per_chunk):
            count = min(self.rows_per_chunk, num_rows - first)
            yield first, decode(self.store.read(self.weight, first, count), self.weight.dtype, columns)

    def __getitem__(self, rows: NDArray[np.integer]) -> Floats:
        """Single rows, each read by itself: [len(rows), K]."""
        columns = self.weight.shape[1]
        found = [decode(self.store.read(self.weight, int(row), 1), self.weight.dtype, columns) for row in rows]
        return np.concatenate(found)


def texts_per_pass(model: Model, text_tokens: int, budget_bytes: int) -> int:
    """How many texts of so many tokens may go through a block together inside a budget; at least one."""
    config = model.part("language").config
    widest = max(2 * config["intermediate_size"], 4 * config["hidden_size"])
    per_text = 4 * ARRAYS_PER_TOKEN * text_tokens * (widest + text_tokens)
    return max(1, int((budget_bytes - BASE_BYTES) // per_text))


def hidden_states(model: Model, texts: list[list[int]], progress: Progress | None = None) -> list[Floats]:
    """Normalized hidden states before the output head, float32 [T, D] for each text of T tokens.

    All texts go through a block before the next block's weights are read.
    """
    part = model.part("language")
    page = CacheForm().page_tokens
    longest = max(len(text) for text in texts)
    context = -(-longest // page) * page
    form = replace(source_form(model), cache=CacheForm("f32"), chunk=sum(map(len, texts)))
    work = family(part.family).work(part.config, form, Workload(context=context, batch=len(texts)))
    program = work.stage("prefill").programs[0]
    call = _call(texts, context // page)
    with Store(model) as store:
        memory = _memory(model, store, context)
        stop = next(i for i, op in enumerate(program.ops) if op.kind == "select")
        for index in range(stop):
            _step(program, index, memory, call)
            if progress is not None:
                progress(index + 1, stop)
        final = str(program.ops[stop].read("x"))
        states = rms_norm(memory[final], memory["norm"], part.config["rms_norm_eps"]).astype(np.float32)
    ends = np.cumsum([len(text) for text in texts])
    return [np.ascontiguousarray(part) for part in np.split(states, ends[:-1])]


def head_rows(model: Model, store: Store) -> Iterator[tuple[int, Floats]]:
    """The output head's rows, (first row, rows [n, D]) at a time."""
    weights = {weight.name: weight for weight in model.part("language").weights()}
    return iter(RowSource(store, weights.get("head", weights["embed"])))


def _call(texts: list[list[int]], pages_each: int) -> Call:
    tokens = np.concatenate([np.array(text) for text in texts])
    positions = np.concatenate([np.arange(len(text)) for text in texts])
    sequences = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    tables = tuple(tuple(range(i * pages_each, (i + 1) * pages_each)) for i in range(len(texts)))
    return Call(tokens, positions, sequences, (), tables)


def _memory(model: Model, store: Store, context: int) -> Memory:
    memory: Memory = {}
    for weight in model.part("language").weights():
        if len(weight.shape) == 2:
            memory[weight.name] = RowSource(store, weight)
        else:
            memory[weight.name] = decode(store.read(weight), weight.dtype, weight.shape[0])[0]
    memory["rope"] = rope_table(model.part("language").config, context, memory.get("rope_freqs"))
    return memory


def _step(program: Program, index: int, memory: Memory, call: Call) -> None:
    """One op; a layer's cache exists while its attention runs, and what no later op reads is dropped."""
    op = program.ops[index]
    caches = {name: program.shape(name) for role, name in op.reads if role in ("k", "v")}
    if caches:
        pages = sum(map(len, call.page_tables))
        memory.update({name: np.zeros((pages, *shape[1:]), np.float32) for name, shape in caches.items()})
    run(program, memory, call, index, index + 1)
    later = {name for other in program.ops[index + 1 :] for _, name in other.reads}
    for name in {*caches, *_touched(op)}:
        if name not in later and program.by_name[name].life != "pack":
            memory.pop(name, None)


def _touched(op: Op) -> set[str]:
    return {name for _, name in (*op.reads, *op.writes)}
