"""What a recording does in vain, left out: calls nobody reads, copies of what already lies so, zeros put around a
picture that its convolution can put itself; and what only changes values writes where the values lay before.

No value changes. What is left is what every reader of the program sees: price, layout and replay.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

from pintpot.program.calls import BY_VALUE
from pintpot.program.ops.aten import VALUE_BYTES, View
from pintpot.program.spec import Buffer, Buffers, Op, Table

_COPIES = frozenset({"clone.default", "_to_copy.default"})
_PAD = "constant_pad_nd.default"
_IN_PLACE = frozenset({"native_batch_norm", "_native_batch_norm_legit_no_training"})
"""Calls beside those by value that read each value before they write the one in its place."""


@lru_cache(maxsize=64)
def tidy(ops: Table[Op], buffers: Buffers, upon: bool = True) -> tuple[Table[Op], Buffers]:
    """The ops that matter, over these buffers and some more; `buffers` are all but weights.

    What outlives a replay is written as before. Only where values may lie `upon` those they are made of do they.
    """
    lasting = frozenset(buffer.name for buffer in buffers if buffer.life != "step")
    known = buffers.by_name
    kept = _needed(ops, lasting)
    kept = _padded_within(kept, known)
    kept = _without_copies(kept, known)
    kept = _in_place(kept, known) if upon else kept
    kept, fresh = _unwritten(kept, known)
    return Table(kept), Buffers.join(*(buffers.parts or (buffers,)), Buffers(fresh)) if fresh else buffers


def _needed(ops: Iterable[Op], lasting: frozenset[str]) -> list[Op]:
    """Without calls of which nobody reads what they write."""
    read, kept = set[str](), list[Op]()
    for op in reversed(list(ops)):
        written = {name for _, name in op.writes}
        if op.kind == "aten" and written.isdisjoint(read | lasting):
            continue
        kept.append(op)
        read |= {name for _, name in op.reads}
    return kept[::-1]


class _Uses:
    """Where each buffer is read and written, by the places of the ops."""

    def __init__(self, ops: list[Op]) -> None:
        self.reads: dict[str, list[int]] = {}
        self.writes: dict[str, list[int]] = {}
        for at, op in enumerate(ops):
            for names, places in ((op.reads, self.reads), (op.writes, self.writes)):
                for name in dict.fromkeys(name for _, name in names):
                    places.setdefault(name, []).append(at)

    def last(self, name: str) -> int:
        return int(max((*self.reads.get(name, ()), *self.writes.get(name, ()), -1)))

    def written_behind(self, name: str, at: int) -> bool:
        return any(place > at for place in self.writes.get(name, ()))


def _padded_within(ops: list[Op], known: Mapping[str, Buffer]) -> list[Op]:
    """Zeros around a picture become the padding of the convolution that alone reads it."""
    uses, kept = _Uses(ops), list(ops)
    for at, op in enumerate(ops):
        args = json.loads(op.get("args")) if op.get("call") == _PAD else []
        out = op.writes[0][1] if args else ""
        readers = uses.reads.get(out, [])
        if not args or len(readers) != 1 or known[out].life != "step" or len(uses.writes[out]) > 1:
            continue
        to = ops[readers[0]]
        source = op.reads[0][1]
        padding = _padding_of(to, out, op.get("outs")[0], args)
        if padding is None or any(at < place < readers[0] for place in uses.writes.get(source, ())):
            continue
        views = (op.get("views")[0], *to.get("views")[1:])
        reads = ((to.reads[0][0], source), *to.reads[1:])
        kept[readers[0]] = _changed(replace(to, reads=reads), views=views, args=json.dumps(padding))
        kept[at] = _NOTHING
    return [op for op in kept if op is not _NOTHING]


def _padding_of(op: Op, name: str, view: View, pad: list[Any]) -> list[Any] | None:
    """The arguments of a convolution with a pad before it as its own; None where it cannot be."""
    if op.get("call") != "convolution.default" or op.reads[0][1] != name or op.get("views")[0] != view:
        return None
    args = json.loads(op.get("args"))
    around, own, num = pad[1], args[4], len(view[1]) - 2
    before, after = around[::2][::-1], around[1::2][::-1]
    plain = before == after and min(before) >= 0 and not any(before[:-num]) and (len(pad) < 3 or pad[2] == 0)
    if args[6] or not plain:
        return None
    before = [0] * (num - len(before)) + before[-num:]
    own = own * num if len(own) == 1 else own
    return [*args[:4], [one + more for one, more in zip(own, before, strict=True)], *args[5:]]


def _without_copies(ops: list[Op], known: Mapping[str, Buffer]) -> list[Op]:
    """Who reads a copy that lies as its source does reads the source, where neither changes while both are there."""
    uses, names, kept = _Uses(ops), dict[str, str](), list[Op]()
    for at, op in enumerate(ops):
        if not _is_copy(op):
            kept.append(_renamed(op, names))
            continue
        (_, source), (_, out) = op.reads[0], op.writes[0]
        changes = uses.written_behind(source, at) or uses.written_behind(out, at) or len(uses.writes[out]) > 1
        if changes or known[out].life != "step" or source not in known or known[source].shape != known[out].shape:
            kept.append(_renamed(op, names))
        else:
            names[out] = names.get(source, source)
    return kept


def _is_copy(op: Op) -> bool:
    """Whether what a call gives lies, bit for bit and place for place, as what it reads."""
    if op.get("call") == _PAD:
        pad = json.loads(op.get("args"))[1]
    elif op.get("call") in _COPIES:
        pad = []
    else:
        return False
    return op.get("views")[:1] == op.get("outs") and not any(pad)


def _in_place(ops: list[Op], known: Mapping[str, Buffer]) -> list[Op]:
    """What is made value by value of what nobody reads again takes its place."""
    uses, names, kept = _Uses(ops), dict[str, str](), list[Op]()
    last = {name: uses.last(name) for name in known}
    for at, op in enumerate(ops):
        source = _overwritable(op, known, last, at)
        if source is not None:
            out, place = op.writes[0][1], names.get(source, source)
            names[out] = place
        kept.append(_renamed(op, names))
    return kept


def _overwritable(op: Op, known: Mapping[str, Buffer], last: Mapping[str, int], at: int) -> str | None:
    """The first of an op's inputs that its output may lie upon."""
    call = str(op.get("call")).partition(".")[0]
    if not op.get("outs") or call not in BY_VALUE | _IN_PLACE or _is_copy(op):
        return None
    out, made = known[op.writes[0][1]], op.get("outs")[0]
    looks = Counter(name for _, name in op.reads)
    for (_, name), view in zip(op.reads, op.get("views"), strict=True):
        source = known.get(name)
        fits = source is not None and source.shape == out.shape and view == made and _is_all(view, source)
        if fits and looks[name] == 1 and last[name] == at and known[name].life == out.life == "step":
            return name
        if call in _IN_PLACE:
            break
    return None


def _is_all(view: View, buffer: Buffer) -> bool:
    room = 4 * prod(axis for axis in buffer.shape if isinstance(axis, int))
    return view[3] == 0 and room - 4 < prod(view[1]) * VALUE_BYTES[view[0]] <= room


def _unwritten(ops: list[Op], known: Mapping[str, Buffer]) -> tuple[list[Op], list[Buffer]]:
    """A product may add nothing of memory that nobody ever wrote; one value of that is enough."""
    written = {name for op in ops for _, name in op.writes}
    kept, fresh = list[Op](), dict[str, Buffer]()
    for op in ops:
        name = op.reads[0][1] if op.get("call") == "baddbmm.default" else ""
        if (
            name
            and name not in written
            and known[name].life == "step"
            and json.loads(op.get("kwargs")).get("beta") == 0
        ):
            dtype, sizes, strides, _ = op.get("views")[0]
            one = fresh.setdefault(name, replace(known[name], name=f"{name}.one", shape=(1,)))
            view = (dtype, sizes, (0,) * len(strides), 0)
            op = _changed(
                replace(op, reads=((op.reads[0][0], one.name), *op.reads[1:])), views=(view, *op.get("views")[1:])
            )
        kept.append(op)
    return kept, list(fresh.values())


_NOTHING = Op("aten", (), ())


def _renamed(op: Op, names: Mapping[str, str]) -> Op:
    if all(name not in names for _, name in (*op.reads, *op.writes)):
        return op
    reads, writes = (tuple((role, names.get(name, name)) for role, name in each) for each in (op.reads, op.writes))
    return replace(op, reads=reads, writes=writes)


def _changed(op: Op, **knobs: object) -> Op:
    return replace(op, attributes=tuple((key, knobs.get(key, value)) for key, value in op.attributes))
