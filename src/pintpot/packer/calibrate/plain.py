"""Weights that are transformed and then rounded to nearest: nothing meets them meanwhile, so no text is read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pintpot.packer.calibrate.chosen import Chosen
from pintpot.packer.calibrate.forward import BlockOps, Forward
from pintpot.packer.calibrate.prepared import Prepared
from pintpot.packer.calibrate.rounded import Vocabulary, kept, transformed

EMBED, HEAD = "embed", "head"


def convert_blocks(
    forward: Forward, chosen: Chosen, prepared: Prepared, threads: int, told: Callable[[float], None]
) -> None:
    """Every block that is not done yet, the vocabulary too; `told` is given the share that is done."""
    convert_embedding(forward, chosen, prepared, threads)
    for index, block in enumerate(forward.blocks):
        if not prepared.has(block.name):
            prepared.add(block.name, _converted(forward, chosen, block, threads))
        told((index + 1) / (len(forward.blocks) + 1))
    if not prepared.has(HEAD):
        head, vocabulary = str(forward.head.read("weight")), Vocabulary(forward, chosen)
        made = vocabulary.strips(forward.head, None, threads) if chosen.changes(head) else None
        prepared.add(HEAD, with_norm(vocabulary, {} if made is None else {head: made}))


def convert_embedding(forward: Forward, chosen: Chosen, prepared: Prepared, threads: int) -> None:
    """The embedding, where a step transforms it and it is not the head too."""
    name = str(forward.embed.read("weight"))
    if not chosen.changes(name) or name == forward.head.read("weight") or prepared.has(EMBED):
        return
    strips = Vocabulary(forward, chosen).strips(forward.embed, None, threads)
    prepared.add(EMBED, {name: strips})


def with_norm(vocabulary: Vocabulary, made: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.generic]]:
    """The head's strips, and the norm before it where a step transforms it."""
    name = str(vocabulary.forward.head.read("norm"))
    return {**made, name: vocabulary.norm()} if vocabulary.chosen.changes(name) else {**made}


def _converted(forward: Forward, chosen: Chosen, block: BlockOps, threads: int) -> dict[str, NDArray[np.generic]]:
    values = transformed(chosen, block.name, block.ops, forward.values(block), {})
    made: dict[str, NDArray[np.generic]] = {}
    for name in block.weights:
        form = chosen.form.weights.by_name[name]
        if not chosen.changes(name):
            continue
        strips = kept(forward, chosen, form, values[name], None, threads) if form.is_matrix else values[name]
        if strips is not None:
            made[name] = strips
    return made
