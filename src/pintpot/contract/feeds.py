"""What makes the channels that an op meets: rows of other weights of its block, whose order or size is free.

Nothing that stands between tells the hidden channels of a feed-forward network apart, nor those of a value head: what
is done to the rows that make a channel can be undone in the columns that meet it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pintpot.contract.statistics import Block
from pintpot.program.ops.linear import gated
from pintpot.program.spec import Op


@dataclass(frozen=True, slots=True)
class Feed:
    """The weights whose rows make the channels of an op, and their biases.

    Channels lie in `num_heads` heads of equal width; each of the op's columns belongs to one of `shared` neighbours of
    that width which meet the same head (query heads that share a value head).
    """

    weights: tuple[str, ...]
    biases: tuple[str, ...]
    num_heads: int = 1
    shared: int = 1


def feed_of(block: Block, op: Op) -> Feed | None:
    """What feeds a linear op past a gate or attention; None where its channels come out of the residual stream."""
    makers = {other.write("out"): other for other in block.ops}
    maker = makers.get(op.read("x"))
    if op.kind != "linear" or maker is None:
        return None
    if gated(op):
        return Feed(maker.read_all("weight"), maker.read_all("bias"))
    if op.get("prologue", "none") != "none" or maker.kind != "attend":
        return None
    heads, kv_heads = maker.get("heads"), maker.get("kv_heads")
    maker = makers[str(maker.read("qkv"))]
    return Feed(maker.read_all("weight")[-1:], maker.read_all("bias")[-1:], kv_heads, heads // kv_heads)
