"""The unpacked network in float32, block by block: it walks the family's prefill program and knows what meets a weight.

    forward = Forward(model, store, longest=512)
    states = forward.embedded(texts)                                  # [T, D], texts one after the other
    for block in forward.blocks:
        states = forward.run(block, forward.values(block), states, lengths, met)
    forward.final(states)                                             # what the head's rows meet

Where pictures stand among the words, `values` have what `Prompts.memory` gives of them as well.

`met(op, rows)` is told of every linear op the rows [T, K] that meet its weights, after norm or SwiGLU. Nothing of a
block is kept but the states that it leaves. Weights may be changed between blocks, or between `step`s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.budget import Workload
from pintpot.contract.form import CacheForm, Form, source_form
from pintpot.contract.step import Step
from pintpot.errors import UnsupportedModel, need
from pintpot.kernels.reference import Call, Memory, give
from pintpot.kernels.reference.attend import as_stored, rotated
from pintpot.kernels.reference.experts import experts
from pintpot.kernels.reference.linear import normed, project, prologue
from pintpot.kernels.reference.route import route
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.nets import family
from pintpot.nets._rope import rope_tables
from pintpot.packer.calibrate.attention import causal
from pintpot.packer.calibrate.source import RowSource, whole
from pintpot.program.blocks import BlockOps as BlockOps
from pintpot.program.blocks import cut_blocks
from pintpot.program.spec import Op

Floats = NDArray[np.float32]
Met = Callable[[Op, Floats], None]
Meets = Callable[[str, Floats, Any], Floats]
"""What of rows [n, K] of some tokens [n] (None: all, in order) meets the weight of a name: the rows themselves, or what
rounding leaves of them."""
Texts = Sequence[Sequence[int] | NDArray[np.int64]]
PART = "language"
TOKENS, TURNS = "tokens", "turns"
"""What memory says, where there are pictures, of each token: its number, and the position or the row it turns by."""


class Forward:
    """A described model over texts of up to `longest` tokens. Not for two threads while weights are read.

    `form` is the source's, with a cache that rounds nothing, or one whose cache's format keys and values shall pass
    through; `steps` rewrite the work. `pictured` texts may have pictures among their words.
    """

    def __init__(
        self,
        model: Model,
        store: Store,
        longest: int,
        form: Form | None = None,
        steps: Sequence[Step] = (),
        pictured: bool = False,
    ) -> None:
        part = model.part(PART)
        page = CacheForm().page_tokens
        context = -(-longest // page) * page
        form = replace(form or replace(source_form(model), cache=CacheForm("f32")), chunk=context)
        workload = Workload(context=context, given=int(pictured), pictures=int(pictured))
        work = family(part.family).work(part.config, form, workload)
        for step in steps:
            work = step.rewrite(work, form)
        self._program = work.stage("prefill").programs[0]
        self._store = store
        self._weights = {weight.name: weight for weight in part.weights()}
        factors = self.weight("rope_freqs") if "rope_freqs" in self._weights else None
        self.tables = rope_tables(part.config, context, factors)
        ops = self._program.ops
        stop = next(index for index, op in enumerate(ops) if op.kind == "select")
        self.embed, self.head = ops[0], next(op for op in ops[stop:] if op.kind == "linear")
        owner = {weight.name: block.name for block in part.blocks for weight in block.weights}
        self.blocks = tuple(cut_blocks(self._program, ops[1:stop], owner))
        need(self.embed.kind == "embed", f"{part.family} does not begin with an embedding", UnsupportedModel)
        self._eps = self.head.get("eps")

    def weight(self, name: str) -> Floats:
        """A weight of the source: float32 [N, K], or [N] of a vector."""
        return whole(self._store, self._weights[name])

    def rows(self, name: str) -> RowSource:
        """A matrix of the source, read some rows at a time."""
        return RowSource(self._store, self._weights[name])

    def values(self, block: BlockOps) -> dict[str, Floats]:
        """All weights of a block, in memory."""
        return {name: self.weight(name) for name in block.weights}

    def streamed(self, block: BlockOps) -> Memory:
        """All weights of a block, the matrices in runs of rows: little memory, for `run` with all texts at once."""
        return {name: self.rows(name) if self.is_matrix(name) else self.weight(name) for name in block.weights}

    def is_matrix(self, name: str) -> bool:
        return len(self._weights[name].shape) == 2

    def embedded(self, texts: Texts, table: Any = None, given: Floats | None = None) -> Floats:
        """States before the first block, [T, D] of T tokens of all texts; `table` [V, D] in place of the source's.

        A token ~r is row r of those `given` [R, D].
        """
        tokens = np.concatenate([np.asarray(text) for text in texts])
        name, words = str(self.embed.read("weight")), tokens >= 0
        found = (self.rows(name) if table is None else table)[tokens[words]]
        found = np.asarray(found * np.float32(self.embed.get("scale", 1.0)))
        if given is None:
            return found
        states = np.empty((len(tokens), given.shape[1]), np.float32)
        states[words], states[~words] = found, given[~tokens[~words]]
        return states

    def run(
        self,
        block: BlockOps,
        values: Mapping[str, Any],
        states: Floats,
        lengths: Sequence[int],
        met: Met | None = None,
        meets: Meets | None = None,
    ) -> Floats:
        """A block over texts of these lengths, one after the other: states [T, D] before it, and after."""
        memory: Memory = {**values, block.x: states}
        for index, op in enumerate(block.ops):
            self.step(op, memory, lengths, met, meets)
            later = {name for other in block.ops[index + 1 :] for _, name in other.reads} | {block.out}
            for _, name in (*op.reads, *op.writes):
                if name not in later:
                    memory.pop(name, None)
        return np.asarray(memory[block.out])

    def step(
        self, op: Op, memory: Memory, lengths: Sequence[int], met: Met | None = None, meets: Meets | None = None
    ) -> None:
        """One op of a block over `memory`, which holds its weights and what it reads, and gains what it writes."""
        if op.kind == "linear":
            memory[str(op.write("out"))] = linear(op, memory, met, meets)
        elif op.kind == "attend":
            memory[str(op.write("out"))] = self._attend(op, memory, lengths)
        elif op.kind == "give":
            give.run(op, self._program, memory, call_of(memory, slice(0, sum(lengths))))
        elif op.kind == "route":
            route(op, memory, self._program.shape(str(op.write("chosen")))[-1])
        elif op.kind == "experts":
            experts(op, memory, meets or (lambda name, rows, tokens: rows))
        else:
            raise UnsupportedModel(f"calibration and proof know no {op.kind} inside a block")

    def final(self, states: Floats, norm: Floats | None = None) -> Floats:
        """States [T, D] after the last block as the head's rows meet them."""
        name = str(self.head.read("norm"))
        memory = {str(self.head.read("x")): states, name: self.weight(name) if norm is None else norm}
        return prologue(self.head, memory).astype(np.float32, copy=False)

    def _attend(self, op: Op, memory: Memory, lengths: Sequence[int]) -> Floats:
        qkv, rope = str(op.read("qkv")), str(op.read("rope"))
        parts, first = [], 0
        stored = self._program.by_name[str(op.read("k"))].format
        for length in lengths:
            part = slice(first, first + length)
            own = {**memory, qkv: memory[qkv][part], rope: self.tables[rope]}
            q, k, v = rotated(op, own, call_of(memory, part))
            parts.append(causal(op, q, as_stored(k, stored), as_stored(v, stored)).reshape(length, -1))
            first += length
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def call_of(memory: Memory, part: slice) -> Call:
    """A text whose tokens are these of all that are in memory."""
    order = np.arange(part.stop - part.start)
    tokens, turns = (memory[name][part] if name in memory else None for name in (TOKENS, TURNS))
    return Call(order if tokens is None else tokens, order, np.zeros_like(order), (), (), turns=turns)


def linear(op: Op, memory: Memory, met: Met | None = None, meets: Meets | None = None) -> Floats:
    """What a linear op writes, in float32; rows are rounded as `meets` does, whatever the op says."""
    rows = meeting(op, memory)
    if met is not None:
        met(op, rows)
    return product(op, rows, memory, meets)


def meeting(op: Op, memory: Memory) -> Floats:
    """The rows [T, K] that meet a linear op's weights."""
    return prologue(op, memory).astype(np.float32, copy=False)


def product(op: Op, rows: Floats, memory: Memory, meets: Meets | None = None) -> Floats:
    """What a linear op writes, of the rows [T, K] that meet its weights, rounded as `meets` does."""
    out = normed(op, multiplied(op, rows, memory, meets), memory)
    residual = op.read("residual")
    return out if residual is None else np.asarray(out + memory[residual])


def multiplied(op: Op, rows: Floats, memory: Memory, meets: Meets | None = None) -> Floats:
    """The products of a linear op and their biases, before any norm of them."""
    biases = op.read_all("bias") or (None,) * len(op.read_all("weight"))
    parts = []
    for name, bias in zip(op.read_all("weight"), biases, strict=True):
        y = project(rows if meets is None else meets(name, rows, None), memory[name])
        parts.append(y if bias is None else y + memory[bias])
    out = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    return np.asarray(out)
