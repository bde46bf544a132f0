"""Causal attention with rotary positions over pages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.kernels.reference import Call, Memory, names
from pintpot.kernels.reference.linear import GROUP, brain, rms_norm
from pintpot.program.ops.attend import SEGMENT_TOKENS
from pintpot.program.spec import Op, Program

MOST_HALF = 65504.0
"""The largest finite f16: values and scales beyond it are cut off there."""
MOST_ROUNDED = 8191


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    q = store(op, program, memory, call)
    memory[names(op.writes)["out"]] = attend(op, memory, call, q).reshape(len(call.tokens), -1)


def store(op: Op, program: Program, memory: Memory, call: Call) -> NDArray[Any]:
    """Put the new keys and values into their pages; returns the rotated queries [T, heads, hd]."""
    reads = names(op.reads)
    q, k, v = rotated(op, memory, call)
    form = program.by_name[reads["k"]].format
    for index in range(len(call.tokens)):
        page, slot = _place(call, call.sequences[index], call.positions[index], memory[reads["k"]].shape[2])
        memory[reads["k"]][page, :, slot] = as_stored(k[index], form)
        memory[reads["v"]][page, :, slot] = as_stored(v[index], form)
    return q


def rotated(op: Op, memory: Memory, call: Call) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """New queries [T, heads, hd], keys and values [T, KV, hd] with norms and positions, before they are stored."""
    reads = names(op.reads)
    heads, kv_heads, head_dim = op.get("heads"), op.get("kv_heads"), op.get("head_dim")
    qkv = memory[reads["qkv"]].reshape(len(call.tokens), heads + 2 * kv_heads, head_dim)
    q, k, v = qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
    if "q_norm" in reads:
        q = rms_norm(q, memory[reads["q_norm"]], op.get("eps"))
    if "k_norm" in reads:
        k = rms_norm(k, memory[reads["k_norm"]], op.get("eps"))
    angles, layout = angles_of(op, memory, call), op.get("rope", "half")
    return rotate(q, angles, layout), rotate(k, angles, layout), v


def angles_of(op: Op, memory: Memory, call: Call) -> NDArray[Any]:
    """The line of the rotary table, or of the angles given, by which each token turns [T, rope_dim]."""
    reads = names(op.reads)
    turns = call.positions if call.turns is None else call.turns
    angles = memory[reads["rope"]][np.maximum(turns, 0)]
    if "angles" in reads:
        angles[turns < 0] = memory[reads["angles"]][~turns[turns < 0]]
    return np.asarray(angles)


def attend(op: Op, memory: Memory, call: Call, q: NDArray[Any]) -> NDArray[Any]:
    """What rotated queries [T, heads, hd] find in the pages, which hold the new positions already: [T, heads, hd]."""
    reads, out = names(op.reads), np.zeros_like(q)
    for sequence in np.unique(call.sequences):
        rows = np.flatnonzero(call.sequences == sequence)
        out[rows] = _attend(op, memory[reads["k"]], memory[reads["v"]], call, rows, q[rows])
    return out


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
        return np.asarray(np.clip(x, -MOST_HALF, MOST_HALF).astype(np.float16).astype(x.dtype))
    if name == "sym8c":
        groups = x.reshape(x.shape[0], -1, GROUP)
        scale = np.minimum(np.abs(groups).max(axis=-1, keepdims=True) / 127, MOST_HALF)
        scale = scale.astype(np.float16).astype(x.dtype)
        units = np.divide(groups, scale, out=np.zeros_like(groups), where=scale > 0)
        return np.asarray((np.clip(np.rint(units), -127, 127) * scale).reshape(x.shape))
    return x


def _place(call: Call, sequence: int, position: int, page_tokens: int) -> tuple[int, int]:
    return call.page_tables[sequence][position // page_tokens], position % page_tokens


def _attend(
    op: Op, keys: NDArray[Any], values: NDArray[Any], call: Call, rows: NDArray[Any], q: NDArray[Any]
) -> NDArray[Any]:
    """Attention of some rows [R, heads, hd] of one sequence over its pages."""
    sequence, position = int(call.sequences[rows[0]]), call.positions[rows][:, None]
    window, sinks = op.get("window", 0), op.get("sinks", 0)
    seen = np.arange(int(position.max()) + 1)
    mask = seen <= position
    if window:
        mask &= (seen > position - window) | (seen < sinks)
    seen, mask = seen[mask.any(axis=0)], mask[:, mask.any(axis=0)]
    table = np.array(call.page_tables[sequence])
    pages, slots = table[seen // keys.shape[2]], seen % keys.shape[2]
    group = op.get("heads") // op.get("kv_heads")
    k, v = (np.repeat(pool[pages, :, slots], group, axis=1) for pool in (keys, values))
    kind = op.get("rounded", "none")
    if kind == "bfloat16":
        q, k, v = (brain(x * by) for x, by in ((q, op.get("scale")), (k, 1), (v, 1)))
        scores = np.where(mask[:, None], np.einsum("rhd,phd->rhp", q, k, optimize=True), -np.inf)
        return np.asarray(np.einsum("rhp,phd->rhd", brain_weights(scores, seen // SEGMENT_TOKENS), v, optimize=True))
    if kind == "integers":
        q, k, v = (rounded(x) for x in (q, k, v))
    scores = np.where(mask[:, None], np.einsum("rhd,phd->rhp", q, k, optimize=True) * op.get("scale"), -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    if kind == "integers":
        weights = _rounded_weights(weights, np.abs(v).max(axis=-1).T, seen // SEGMENT_TOKENS)
    return np.asarray(np.einsum("rhp,phd->rhd", weights, v, optimize=True))


def brain_weights(scores: NDArray[Any], segments: NDArray[Any]) -> NDArray[Any]:
    """Weights of scores [..., P], rounded to bfloat16 beside the largest of their segment, and not their sum."""
    found, total = np.empty_like(scores), scores.max(axis=-1, keepdims=True)
    for segment in np.unique(segments):
        part = scores[..., segments == segment]
        top = part.max(axis=-1, keepdims=True)
        top[np.isneginf(top)] = 0
        found[..., segments == segment] = brain(np.exp(part - top)) * np.exp(top - total)
    return np.asarray(found / np.exp(scores - total).sum(axis=-1, keepdims=True))


def rounded(x: NDArray[Any]) -> NDArray[Any]:
    """Vectors [..., hd] as 13 bits and a sign of their largest magnitude hold them."""
    unit = np.abs(x).max(axis=-1, keepdims=True) / MOST_ROUNDED
    return np.asarray(np.rint(np.divide(x, unit, out=np.zeros_like(x), where=unit > 0)) * unit)


def _rounded_weights(weights: NDArray[Any], worth: NDArray[Any], segments: NDArray[Any]) -> NDArray[Any]:
    """Weights [R, heads, P], rounded times what a value of their key is worth [heads, P], segment by segment."""
    found = np.empty_like(weights)
    for segment in np.unique(segments):
        inside = segments == segment
        shares = rounded(weights[..., inside] * worth[:, inside])
        found[..., inside] = np.divide(shares, worth[:, inside], out=np.zeros_like(shares), where=worth[:, inside] > 0)
    return found
