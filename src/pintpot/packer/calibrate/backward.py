"""Gradients of the float network, block by block and last block first: each op's forward is computed again.

    backward = Backward(forward)
    grads = backward.head(states, ...)                        # [T, D], of what the last block leaves
    for block in reversed(forward.blocks):
        grads = backward.run(block, values, states, grads, lengths, seen)

`seen(name, rows, grads, first)` is told of every weight the rows [T, K] that met it and the gradients [T, N] of its
outputs; a weight's own gradient is their product, and whether it is ever formed is the listener's choice. Of experts it
is told one by one: `first` is where their rows begin, and tokens that do not meet them have zeros. Norms and rotations
are differentiated as `kernels.reference` defines them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.kernels.reference import Memory, names
from pintpot.kernels.reference.attend import angles_of, rotate, rotated
from pintpot.kernels.reference.linear import prologue
from pintpot.packer.calibrate.attention import hidden
from pintpot.packer.calibrate.backward_experts import experts, route
from pintpot.packer.calibrate.backward_rows import before as before
from pintpot.packer.calibrate.backward_rows import rms_norm as rms_norm
from pintpot.packer.calibrate.forward import TOKENS, TURNS, BlockOps, Forward, call_of, multiplied
from pintpot.program.spec import Op

Floats = NDArray[Any]
Seen = Callable[[str, Floats, Floats, int], None]


class Backward:
    """Gradients through the blocks of a `Forward`, whose weights are given at each call."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def run(
        self,
        block: BlockOps,
        values: Mapping[str, Any],
        states: Floats,
        grads: Floats,
        lengths: Sequence[int],
        seen: Seen | None = None,
    ) -> Floats:
        """Gradients [T, D] of the states before a block, from those of the states after it."""
        memory: Memory = {**values, block.x: states}
        for op in block.ops:
            self._forward.step(op, memory, lengths)
        found: dict[str, Floats] = {block.out: grads}
        for op in reversed(block.ops):
            for name, grad in self._op(op, memory, found, lengths, seen):
                found[name] = found[name] + grad if name in found else grad
            for _, name in op.writes:
                memory.pop(name, None)
        return found[block.x]

    def _op(
        self, op: Op, memory: Memory, found: dict[str, Floats], lengths: Sequence[int], seen: Seen | None
    ) -> list[tuple[str, Floats]]:
        """Gradients by buffer of what an op reads, from those of what it writes, which nobody needs any more."""
        if op.kind == "route":
            return [route(op, memory, found.pop(str(op.write("shares"))))]
        out = found.pop(str(op.write("out")))
        if op.kind == "give":
            return [(str(op.read("x")), out)]
        if op.kind == "experts":
            return experts(op, memory, out, seen)
        return linear(op, memory, out, seen) if op.kind == "linear" else self._attend(op, memory, out, lengths)

    def _attend(self, op: Op, memory: Memory, out: Floats, lengths: Sequence[int]) -> list[tuple[str, Floats]]:
        qkv, rope = str(op.read("qkv")), str(op.read("rope"))
        grads, first = np.empty_like(memory[qkv]), 0
        for length in lengths:
            part = slice(first, first + length)
            cut = {name: memory[name][part] for name in (qkv, TOKENS, TURNS) if name in memory}
            own = {**memory, **cut, rope: self._forward.tables[rope]}
            grads[part] = attend(op, own, out[part])
            first += length
        return [(qkv, grads)]


def linear(op: Op, memory: Memory, out: Floats, seen: Seen | None = None) -> list[tuple[str, Floats]]:
    """Gradients by buffer of what a linear op reads, from those [T, sum N] of what it writes."""
    rows = prologue(op, memory).astype(out.dtype, copy=False)
    grads, first, products = np.zeros_like(rows), 0, after(op, memory, rows, out)
    for name in op.read_all("weight"):
        values = memory[name]
        part = products[:, first : first + len(values)]
        first += len(values)
        if seen is not None:
            seen(name, rows, part, 0)
        grads += part @ values
    residual = op.read("residual")
    found = [] if residual is None else [(residual, out)]
    return [*found, (str(op.read("x")), before(op, memory, grads))]


def after(op: Op, memory: Memory, rows: Floats, out: Floats) -> Floats:
    """Gradients [T, sum N] of the products of a linear op, from those of what it writes."""
    name = op.read("post_norm")
    return out if name is None else rms_norm(multiplied(op, rows, memory), memory[name], op.get("eps"), out)


def attend(op: Op, memory: Memory, out: Floats) -> Floats:
    """Gradients [T, (H + 2 KV) hd] of one text's q, k and v, from those [T, H hd] of what its attention writes."""
    reads = names(op.reads)
    num_rows, heads, kv_heads, head_dim = len(out), op.get("heads"), op.get("kv_heads"), op.get("head_dim")
    call = call_of(memory, slice(0, num_rows))
    q, k, v = rotated(op, memory, call)
    # [KV, queries of a group x T, hd] and [KV, T, hd]: the heads that share keys lie side by side.
    queries, grad_out = (_by_key_head(one, kv_heads) for one in (q, out.reshape(q.shape)))
    keys, values = (np.ascontiguousarray(one.transpose(1, 0, 2)) for one in (k, v))
    scores = queries @ keys.transpose(0, 2, 1) * out.dtype.type(op.get("scale"))
    by_head = scores.reshape(heads, num_rows, num_rows)
    by_head += hidden(0, num_rows, op.get("window", 0), op.get("sinks", 0))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    to_values = scores.transpose(0, 2, 1) @ grad_out
    to_scores = grad_out @ values.transpose(0, 2, 1)
    to_scores -= (to_scores * scores).sum(axis=-1, keepdims=True)
    to_scores *= scores
    to_scores *= out.dtype.type(op.get("scale"))
    to_keys = to_scores.transpose(0, 2, 1) @ queries
    to_queries = (to_scores @ keys).reshape(heads, num_rows, head_dim).transpose(1, 0, 2)
    qkv = memory[reads["qkv"]].reshape(num_rows, heads + 2 * kv_heads, head_dim)
    angles = angles_of(op, memory, call)
    turned_q = _unrotated(op, memory, "q_norm", qkv[:, :heads], angles, to_queries)
    turned_k = _unrotated(op, memory, "k_norm", qkv[:, heads : heads + kv_heads], angles, to_keys.transpose(1, 0, 2))
    return np.concatenate((turned_q, turned_k, to_values.transpose(1, 0, 2)), axis=1).reshape(num_rows, -1)


def _by_key_head(x: Floats, kv_heads: int) -> Floats:
    return np.ascontiguousarray(x.transpose(1, 0, 2)).reshape(kv_heads, -1, x.shape[-1])


def _unrotated(op: Op, memory: Memory, norm: str, x: Floats, angles: Floats, grads: Floats) -> Floats:
    """Gradients of heads x before their norm and rotation: a rotation's transpose turns back."""
    half = angles.shape[-1] // 2
    back = np.concatenate((angles[:, :half], -angles[:, half:]), axis=-1)
    turned = rotate(grads, back, op.get("rope", "half"))
    name = op.read(norm)
    return turned if name is None else rms_norm(x, memory[name], op.get("eps"), turned)
