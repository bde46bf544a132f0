"""Blocks of a network: which ops belong together, their weights, and the states that they begin and end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pintpot.errors import UnsupportedModel, need
from pintpot.program.spec import Op, Program


@dataclass(frozen=True, slots=True)
class BlockOps:
    """Ops of one block, its weights (norms and biases too), and the buffers [T, D] that it begins and ends with."""

    name: str
    ops: tuple[Op, ...]
    weights: tuple[str, ...]
    x: str
    out: str


def cut_blocks(program: Program, ops: Sequence[Op], owner: Mapping[str, str]) -> list[BlockOps]:
    """Runs of ops whose weights belong to one block of the model; an op without weights stays with those before it."""
    runs: list[tuple[str, list[Op]]] = []
    for op in ops:
        name = next((owner[one] for _, one in op.reads if one in owner), runs[-1][0] if runs else "")
        if not runs or runs[-1][0] != name:
            runs.append((name, []))
        runs[-1][1].append(op)
    return [_block(program, name, tuple(found), owner) for name, found in runs]


def _block(program: Program, name: str, ops: tuple[Op, ...], owner: Mapping[str, str]) -> BlockOps:
    written = {one for op in ops for _, one in op.writes}
    read = dict.fromkeys(one for op in ops for _, one in op.reads)
    begins = [one for one in read if program.by_name[one].life == "step" and one not in written]
    need(len(begins) == 1, f"{name} begins with {', '.join(begins)}; one stream of states is known", UnsupportedModel)
    return BlockOps(name, ops, tuple(one for one in read if one in owner), begins[0], str(ops[-1].write("out")))
