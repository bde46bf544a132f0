"""A recording as what learns needs it: memory of its own for every result, where to cut, what the way back needs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from math import prod
from typing import Any

from pintpot.errors import UnsupportedModel, need
from pintpot.nets.adapted import leaves
from pintpot.program.calls import meaning
from pintpot.program.spec import Buffer, Op

KEEPS_NOTHING = frozenset(
    [
        "add",
        "sub",
        "rsub",
        "neg",
        "clone",
        "_to_copy",
        "copy",
        "cat",
        "constant_pad_nd",
        "mean",
        "sum",
        "roll",
        "flip",
        "repeat",
    ]
)
"""Calls whose way back needs none of the values that they read or made, by the name of the operator."""
KEEPS_RESULT = frozenset(["relu", "sigmoid", "tanh", "exp", "sqrt", "rsqrt", "_softmax", "_log_softmax"])
"""Those that need what they made alone; others need what they read, and attention both."""
KEEPS_BOTH = frozenset({"_scaled_dot_product_flash_attention_for_cpu", "native_layer_norm", "native_group_norm"})


def keeps(op: Op) -> tuple[str, ...]:
    """The buffers whose values the way back needs of a call."""
    call = str(op.get("call")).partition(".")[0]
    read = () if call in KEEPS_NOTHING | KEEPS_RESULT else op.reads
    made = op.writes if call in KEEPS_RESULT | KEEPS_BOTH else op.writes[1:]
    return tuple(name for _, name in (*read, *made))


def ends(recording: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The pictures, and what is made of them."""
    outputs = list(leaves(recording["outputs"]))
    one = len(recording["inputs"]) == 1 and len(outputs) == 1 and len(outputs[0]["sizes"]) == 2
    need(one, "a classifier that learns takes pictures, and gives a number for each class", UnsupportedModel)
    return recording["inputs"][0], outputs[0]


def apart(ops: Sequence[Op], known: Mapping[str, Buffer]) -> tuple[list[Op], dict[str, str], dict[str, Buffer]]:
    """The calls with memory of its own for each result, its names at the end, and buffers that were not there before.

    Raises UnsupportedModel for what is changed in part.
    """
    names, found, fresh = dict[str, str](), list[Op](), dict[str, Buffer]()
    written: set[str] = set()
    for number, op in enumerate(ops):
        knobs, reads = dict(op.attributes), tuple((role, names.get(name, name)) for role, name in op.reads)
        if not op.get("outs"):
            call, view = str(op.get("call")), op.get("views")[0]
            plain = call.partition(".")[0].removesuffix("_")
            name = op.writes[0][1]
            whole = prod(view[1]) == prod(map(int, known[name].shape)) and meaning(plain) is not None
            need(whole and name == op.reads[0][1], f"{call} changes a part of memory, and nobody here goes back "
                 "through that yet", UnsupportedModel)  # fmt: skip
            knobs["outs"] = (view,)
        writes = []
        for role, name in op.writes:
            own = f"{name}/{number}" if name in written else name
            if own != name:
                names[name] = own
                fresh[own] = replace(known[name], name=own)
            written.add(name)
            writes.append((role, own))
        found.append(replace(op, reads=reads, writes=tuple(writes), attributes=tuple(knobs.items())))
    return found, names, fresh


def cuts(ops: Sequence[Op], x: str, lasting: Collection[str]) -> Iterator[tuple[int, str]]:
    """Places between two calls where a single buffer is all that goes on, and which."""
    last = {name: at for at, op in enumerate(ops) for _, name in op.reads}
    there = {x}
    for at, op in enumerate(ops[:-1]):
        there |= {name for _, name in op.writes}
        there = {name for name in there if last.get(name, -1) > at and name not in lasting}
        if len(there) == 1:
            yield at + 1, next(iter(there))


def called(weights: Sequence[str], first: int, taken: Collection[str]) -> str:
    """A block by what the names of its weights have in common, or by its first one."""
    words = [name.split(".")[:-1] for name in weights]
    shared = takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False))
    name = ".".join(each[0] for each in shared) or (".".join(words[0]) if words else "calls")
    return name if name not in taken else f"{name}.from {first}"
