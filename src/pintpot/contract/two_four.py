"""Whether the matrices of a model's blocks have two zeros among every four weights side by side.

A description does not tell, so a few rows of each are looked at, in the model's files: of a model that was never pruned
those of its first matrix. Packing looks at all rows.
"""

from __future__ import annotations

import struct
from pathlib import Path

from pintpot.contract.targets import FIXED_ROLES, matches
from pintpot.errors import BadInput
from pintpot.model.spec import Model, Weight
from pintpot.model.store import Store

_FOUR = 4
_WORDS = {"f32": ("<I", 0x7FFFFFFF), "f16": ("<H", 0x7FFF), "bf16": ("<H", 0x7FFF)}
"""How a file's values are read, and what of them is not zero in a number that is neither 0 nor -0."""
_known: dict[tuple[object, ...], str] = {}


def not_two_four(model: Model) -> str:
    """Why the model's matrices inside blocks are not 2:4, "" where they are, as far as three rows of each tell."""
    if model.source.kind == "hub":
        return "its weights are not on this machine yet"
    try:
        stats = [Path(file).stat() for file in model.source.files]
        key = (model.digest, model.source.files, *((one.st_size, one.st_mtime_ns) for one in stats))
        if key not in _known:
            _known[key] = _looked_at(model)
    except (OSError, BadInput) as error:
        return f"its weights cannot be read ({error})"
    return _known[key]


def pruned(name: str) -> bool:
    """Whether the matrix of this name is one that sparse models have zeros in: inside blocks, and no router."""
    return matches("blocks", name) and name.rpartition(".")[2] not in FIXED_ROLES


def _looked_at(model: Model) -> str:
    inside = [w for part in model.parts for w in part.weights() if len(w.shape) == 2 and pruned(w.name)]
    if not inside:
        return "it has no matrices inside blocks"
    with Store(model) as store:
        return next((why for weight in inside if (why := _of_weight(store, weight))), "")


def _of_weight(store: Store, weight: Weight) -> str:
    if weight.dtype not in _WORDS or weight.added is not None or weight.taps != 1:
        what = "has an adapter merged into it" if weight.added is not None else f"is kept in {weight.dtype}"
        return f"{weight.name} {what if weight.taps == 1 else 'is a convolution'}"
    word, magnitude = _WORDS[weight.dtype]
    rows = weight.shape[0]
    for index in sorted({0, rows // 2, rows - 1}):
        there = [value & magnitude != 0 for (value,) in struct.iter_unpack(word, store.row(weight, index))]
        many = sum(sum(there[i : i + _FOUR]) > _FOUR // 2 for i in range(0, len(there), _FOUR))
        if many:
            return f"{weight.name} has more than two of four weights that are not zero, {many} times in row {index}"
    return ""
