"""Causal attention with rotary positions over pages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.kernels.reference import Call, Memory, names
from pintpot.kernels.reference.linear import GROUP, rms_norm
from pintpot.program.spec import Op, Program


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    reads = names(op.reads)
    heads, kv_heads, head_dim = op.get("heads"), op.get("kv_heads"), op.get("head_dim")
    rows = memory[reads["qkv"]].reshape(len(call.tokens), heads + 2 * kv_heads, head_dim)
    q, k, v = rows[:, :heads], rows[:, heads : heads + kv_heads], rows[:, heads + kv_heads :]
    if "q_norm" in reads:
        q = rms_norm(q, memory[reads["q_norm"]], op.get("eps"))
        k = rms_norm(k, memory[reads["k_norm"]], op.get("eps"))
    angles = memory[reads["rope"]][call.positions]
    q, k = rotate(q, angles, op.get("rope")), rotate(k, angles, op.get("rope"))
    store = program.by_name[reads["k"]].format
    for index in range(len(call.tokens)):
        page, slot = _place(call, call.sequences[index], call.positions[index], memory[reads["k"]].shape[2])
        memory[reads["k"]][page, :, slot] = as_stored(k[index], store)
        memory[reads["v"]][page, :, slot] = as_stored(v[index], store)
    out = np.zeros((len(call.tokens), heads, head_dim), q.dtype)
    for index in range(len(call.tokens)):
        out[index] = _attend_one(op, memory, reads, call, index, q[index])
    memory[names(op.writes)["out"]] = out.reshape(len(call.tokens), -1)


def rotate(x: NDArray[Any], angles: NDArray[Any], layout: str) -> NDArray[Any]:
    """Rotate pairs of x [T, heads, hd] by angles [T, rope_dim] (cosines, then sines); "half" pairs i with i + dim/2."""
    half = angles.shape[-1] // 2
    cos, sin = angles[:, None, :half], angles[:, None, half:]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if layout == "half":
        one, two = turned[..., :half], turned[..., half:]
        pairs = (one * cos - two * sin, two * cos + one * sin)
        return np.concatenate((*pairs, rest), axis=-1)
    one, two = turned[..., 0::2], turned[..., 1::2]
    both = np.stack((one * cos - two * sin, two * cos + one * sin), axis=-1)
    return np.concatenate((both.reshape(turned.shape), rest), axis=-1)


def as_stored(x: NDArray[Any], name: str) -> NDArray[Any]:
    """Values [heads, hd] as the cache's format keeps them, back in x's precision."""
    if name == "f16":
        return x.astype(np.float16).astype(x.dtype)
    if name == "sym8c":
        groups = x.reshape(x.shape[0], -1, GROUP)
        scale = (np.abs(groups).max(axis=-1, keepdims=True) / 127).astype(np.float16).astype(x.dtype)
        units = np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0)
        return np.asarray((np.clip(np.rint(units), -127, 127) * scale).reshape(x.shape))
    return x


def _place(call: Call, sequence: int, position: int, page_tokens: int) -> tuple[int, int]:
    return call.page_tables[sequence][position // page_tokens], position % page_tokens


def _attend_one(
    op: Op, memory: Memory, reads: Any, call: Call, index: int, q: NDArray[Any]
) -> NDArray[Any]:
    keys, values = memory[reads["k"]], memory[reads["v"]]
    position, window = int(call.positions[index]), op.get("window", 0)
    first = max(0, position - window + 1) if window else 0
    seen = [p for p in range(position + 1) if p >= first or p < op.get("sinks", 0)]
    places = [_place(call, call.sequences[index], p, keys.shape[2]) for p in seen]
    pages, slots = [page for page, _ in places], [slot for _, slot in places]
    group = op.get("heads") // op.get("kv_heads")
    k = np.repeat(keys[pages, :, slots], group, axis=1)
    v = np.repeat(values[pages, :, slots], group, axis=1)
    scores = np.einsum("hd,phd->hp", q, k) * op.get("scale")
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(np.einsum("hp,phd->hd", weights / weights.sum(axis=-1, keepdims=True), v))
