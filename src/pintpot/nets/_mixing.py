"""A decoder's feed-forward network as one op, for experts that share its weights (MixLoRA, arXiv:2404.15159)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from pintpot.contract.routing import FFN_ROLES, Routing
from pintpot.errors import UnsupportedModel
from pintpot.program.blocks import BlockOps
from pintpot.program.spec import Op


def mixed(block: BlockOps, routing: Routing, family: str) -> BlockOps:
    """A block whose gate, up and down are one op: experts that share them. Raises UnsupportedModel without them."""
    for at, (first, last) in enumerate(pairwise(block.ops)):
        names = [name.rpartition(".")[2] for op in (first, last) for name in op.read_all("weight")]
        if names != list(FFN_ROLES) or last.read("x") != first.write("out"):
            continue
        reads = (*first.reads, *(one for one in last.reads if one[0] != "x"))
        own = (("experts", routing.count), ("chosen", routing.chosen), ("balance", routing.balance))
        mixture = Op("mixture", reads, last.writes, (*last.attributes, *own))
        return replace(block, ops=(*block.ops[:at], mixture, *block.ops[at + 2 :]))
    raise UnsupportedModel(f"{family} has no gated feed-forward network in {block.name} that experts could share")
