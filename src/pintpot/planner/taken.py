"""Bytes that learning takes beside the buffers of its work: on disk, and of blocks that are on their way."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from pintpot.contract.form import Form
from pintpot.contract.resting import VERSIONS
from pintpot.contract.training import is_plain, stored_bytes
from pintpot.formats import encoding
from pintpot.planner.cost import Holder
from pintpot.planner.names import ADAPTERS, OPTIMIZER

CHECKPOINT_ROOM = 2.2
"""Of adapters with their moments, on disk: a checkpoint, the next one beside it, and the result."""
STATE_SHARE = 1.01
"""Of weights and moments on disk, with what fills up blocks."""


def disk_bytes(form: Form, holders: Sequence[Holder]) -> int:
    """What a run takes of the disk at most: what learns with its moments in two versions, and what was learned."""
    changed, how = float_bytes(form, changed=True), form.training
    if not changed or how is None:
        return round(CHECKPOINT_ROOM * sum(one.high for one in holders if one.name in (ADAPTERS, OPTIMIZER)))
    held = [how.own_shape(weight, weight.shape) for weight in form.weights if how.changes(weight)]
    kept = how.ranks * sum(4 * prod(shape) + how.moment_bytes(shape) for shape in held)
    return round(VERSIONS * STATE_SHARE * kept) + changed + float_bytes(form, changed=False)


def float_bytes(form: Form, changed: bool) -> int:
    """Bytes in float32 of the weights that are others after a step, or of those that are not."""
    how = form.training
    own = (weight for weight in form.weights if (how is not None and how.changes(weight)) == changed)
    return sum(4 * prod(weight.shape) for weight in own)


def ahead_bytes(form: Form) -> int:
    """What of one block is in memory as floats while another one is computed; and bytes of it as they are read."""
    how = form.training
    blocks: dict[str, int] = {}
    for weight in form.weights:
        if how is None or is_plain(weight, how) or how.divides(weight) or "." not in weight.name:
            continue
        name = weight.name.rpartition(".")[0]
        floats = weight.shape[0] * encoding(how.computed_in).row_bytes(weight.shape[1])
        read = 0 if weight.packed or weight.ram_rows or how.changes(weight) else stored_bytes(weight) // 4
        blocks[name] = blocks.get(name, 0) + floats + read
    return max(blocks.values(), default=0)
