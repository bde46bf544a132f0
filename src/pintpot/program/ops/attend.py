"""Causal attention over a paged cache, with rotary positions (Su et al. 2021) and grouped heads (Ainslie et al. 2023).

Reads qkv [T, (H + 2 KV) * hd]; rotates and stores the new keys and values in the pages of k and v
[pages, KV, page tokens, hd]; writes out [T, H * hd]. It spends qkv: queries may be rotated in place.
With `window` only the last `window` positions and the first `sinks` are seen (Xiao et al. 2023).
Positions turn by the lines of `rope` [context, rope_dim], or where a token says ~i by line i of `angles`
[G, rope_dim], which are given: what an image shows lies in more than one direction.
With `rounded` its products run in integers of 13 bits and a sign (native/kernels/kernels.h).
"""

from __future__ import annotations

from pintpot.errors import UnsupportedModel, UsageError, need
from pintpot.formats import encoding
from pintpot.program.demand import Demand, Work
from pintpot.program.spec import Extent, Op, Program

SEGMENT_TOKENS = 128
MOST_PIECES = 12
"""Parts of decode attention beyond which long contexts are not cut further, about."""
ROUNDED = ("none", "integers", "bfloat16")
"""To what queries, keys, values and weights are rounded where many tokens meet them; native: its place."""
MANY = ("attend_many", "attend_rounded", "attend_brain")
"""The rates of these."""
HEAD_STEP, MOST_HEAD_COLUMNS = 32, 256
"""Native kernels scale the cache in groups of 32, and keep one head's sums at hand."""


def check(op: Op, program: Program) -> None:
    heads, kv_heads, head_dim = op.get("heads"), op.get("kv_heads"), op.get("head_dim")
    need(op.get("rounded", "none") in ROUNDED, f"attention is not rounded to {op.get('rounded')!r}", UsageError)
    need(heads % kv_heads == 0, f"{heads} heads do not divide among {kv_heads} key heads", UsageError)
    qkv, out = program.shape(str(op.read("qkv"))), program.shape(str(op.write("out")))
    need(qkv[-1] == (heads + 2 * kv_heads) * head_dim, "attend: qkv has another width than its heads", UsageError)
    need(out[-1] == heads * head_dim, "attend: out has another width than its heads", UsageError)
    for role in ("k", "v"):
        pages = program.shape(str(op.read(role)))
        need(pages[1::2] == (kv_heads, head_dim), "attend: pages of another shape", UsageError)
    angles = op.read("angles")
    alike = angles is None or program.shape(angles)[1:] == program.shape(str(op.read("rope")))[1:]
    need(alike, "attend: the angles given have another width than the rotary table", UsageError)
    need(op.get("rope", "half") in ("half", "interleaved"), f"no rope layout {op.get('rope')!r}", UsageError)


def check_native(op: Op) -> None:
    """Raise UnsupportedModel for heads that the native kernels do not take."""
    head_dim = op.get("head_dim")
    need(
        head_dim % HEAD_STEP == 0 and 0 < head_dim <= MOST_HEAD_COLUMNS,
        f"heads of {head_dim} columns; native attention takes multiples of {HEAD_STEP} up to {MOST_HEAD_COLUMNS}",
        UnsupportedModel,
    )


def depends(op: Op, program: Program, extent: Extent) -> Extent:
    return extent


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    cache = program.by_name[str(op.read("k"))]
    kv_heads, head_dim, heads = op.get("kv_heads"), op.get("head_dim"), op.get("heads")
    seen = positions_seen(op, extent)
    position_bytes = 2 * encoding(cache.format).row_bytes(head_dim) * kv_heads
    # Query rows of one block share what they read of the cache.
    blocks = extent.sequences if extent.tokens == extent.sequences else -(-extent.tokens // 16)
    cache_bytes = position_bytes * (blocks * seen + extent.tokens)
    multiply_adds = 2.0 * heads * head_dim * seen * extent.tokens
    traffic = cache_bytes + 4.0 * extent.tokens * (2 * heads + 2 * kv_heads) * head_dim
    # The rates of attention are those of whole ops, so its barriers are among them.
    if extent.tokens == extent.sequences:
        pieces, group = _pieces(op, extent), heads // kv_heads
        begun = min(pieces, max(extent.sequences * kv_heads, MOST_PIECES))
        further = cache_bytes - position_bytes * extent.sequences * min(seen, program.shape(cache.name)[2])
        start = Work(f"attend_start/{cache.format}", begun, group)
        work = (start, Work(f"attend/{cache.format}", further, group))
        return Demand(work, pieces, multiply_adds, traffic)
    kind = MANY[ROUNDED.index(op.get("rounded", "none"))]
    # What the product before it wrote lies half in the other threads' caches.
    moved = Work("read", traffic - cache_bytes)
    return Demand((Work(f"{kind}/{cache.format}", multiply_adds, round(seen)), moved), 0, multiply_adds, traffic)


def _pieces(op: Op, extent: Extent) -> int:
    """Parts in which a few new tokens are shared among threads: one for each sequence, key head and stretch of keys."""
    return extent.sequences * int(op.get("kv_heads")) * -(-(extent.context + 1) // SEGMENT_TOKENS)


def positions_seen(op: Op, extent: Extent) -> float:
    """Mean number of cached positions that a query of this replay attends to."""
    new = extent.tokens / extent.sequences
    mean = extent.context + (new + 1) / 2
    window = op.get("window", 0)
    return min(mean, window + op.get("sinks", 0)) if window else mean
