"""A chain of ops computed box by box of its result, so that of what lies between only one box is ever in memory.

The boxes of the last op are followed backward through the chain (`program.pieces`): of each piece of memory inside it,
the box that the ops behind need is held in a buffer of its own. Boxes that overlap inside the chain are computed anew
for each box of the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from pintpot.program.boxes import Box, Digits, hull, narrowed, sizes_of
from pintpot.program.leaf_tiles import leaf, packed, reads_as_it_lies, shown
from pintpot.program.ops.aten import VALUE_BYTES, View
from pintpot.program.pieces import Piece, out_view, piece
from pintpot.program.rewriting import with_ops
from pintpot.program.spec import Buffer, Op, Program, Table

Held = dict[str, Box]


@dataclass(frozen=True)
class Chain:
    """Ops of a program by their places, of which nothing but the first output of the last one is read by others.

    `digits` are those of each piece of memory that the chain writes.
    """

    ops: tuple[Op, ...]
    inside: tuple[int, ...]
    digits: dict[str, Digits]

    @property
    def result(self) -> str:
        return self.ops[self.inside[-1]].writes[0][1]

    @property
    def result_view(self) -> View:
        return out_view(self.ops[self.inside[-1]])


def chain_of(program: Program, inside: Iterable[int]) -> Chain | None:
    """These ops as a chain; None where others see what lies inside, or its views have no axes in common."""
    places = tuple(inside)
    ops, known = program.ops, frozenset(places)
    written = {name for at in places for _, name in ops[at].writes}
    result = ops[places[-1]].writes[0][1]
    views: dict[str, set[View]] = {name: set() for name in written}
    ops = _shown(program, places)
    for index, op in enumerate(ops):
        touched = {name for _, name in (*op.reads, *op.writes)} & written
        if index not in known and any(name != result or index < places[-1] for name in touched):
            return None
        if index in known:
            for name, view in _looks(op):
                if name in written:
                    views[name].add(view)
    unknown = any(ops[at].get("views") is None for at in places)
    lasting = any(program.by_name[name].life != "step" for name in written - {result})
    if unknown or lasting or not _may_move(ops, places):
        return None
    digits = {name: Digits.of(seen) for name, seen in views.items() if _num_values(seen)}
    found = {name: one for name, one in digits.items() if one is not None}
    return Chain(ops, places, found) if len(found) == len(digits) else None


def _shown(program: Program, places: Sequence[int]) -> tuple[Op, ...]:
    """The ops, of which leaves in these places say how they look at their memory, as far as anybody knows."""
    leaves = {at: program.ops[at].writes[0][1] for at in places if program.ops[at].kind == "linear"}
    seen: dict[str, list[View]] = {name: [] for name in leaves.values()}
    for op in program.ops if leaves else ():
        for name, view in _looks(op):
            if name in seen:
                seen[name].append(view)
    found = {at: shown(program.ops[at], program, seen[name]) for at, name in leaves.items()}
    return tuple(found.get(at) or op for at, op in enumerate(program.ops)) if found else program.ops


def _looks(op: Op) -> list[tuple[str, View]]:
    """What an op reads and writes, as it looks at it; nothing of a leaf that does not say."""
    reads = [(name, view) for (_, name), view in zip(op.reads, op.get("views", ()), strict=False)]
    return reads + [(name, view) for (_, name), view in zip(op.writes, op.get("outs", ()), strict=False)]


def _num_values(views: Iterable[View]) -> int:
    return max(prod(sizes) for _, sizes, _, _ in views)


def _may_move(ops: Sequence[Op], places: Sequence[int]) -> bool:
    """Whether what lies between the ops of a chain can be computed before all of them."""
    read: set[str] = set()
    for index in range(places[0], places[-1] + 1):
        op = ops[index]
        if index in places:
            read |= {name for _, name in op.reads}
        elif op.lane != "compute" or any(name in read for _, name in op.writes):
            return False
    return True


def tile(program: Program, chain: Chain, boxes: Sequence[Box]) -> Program | None:
    """The program with a chain computed for one box of its result after the other; None where one cannot be had alone.

    The boxes cover the result's view, and no two of them overlap.
    """
    made: list[Op] = []
    fresh: list[Buffer] = []
    for number, box in enumerate(boxes):
        one = _Tile(chain, f"{chain.inside[0]}.{number}", box)
        if not one.is_known:
            return None
        emitted = one.ops()
        if emitted is None:
            return None
        made += emitted
        fresh += one.buffers
    first, last = chain.inside[0], chain.inside[-1]
    inside = frozenset(chain.inside)
    between = [op for index, op in enumerate(program.ops[first : last + 1], first) if index not in inside]
    ops = Table((*program.ops[:first], *between, *made, *program.ops[last + 1 :]))
    return with_ops(program, ops, fresh, last)


class _Tile:
    """One box of a chain's result: what is held of each piece of memory, and the ops that compute it."""

    def __init__(self, chain: Chain, mark: str, box: Box) -> None:
        self._chain, self._mark, self._box = chain, mark, box
        self._held: Held = {}
        self._pieces: dict[int, Piece] = {}
        self.buffers: list[Buffer] = []
        self.is_known = self._go_back()

    def _go_back(self) -> bool:
        chain = self._chain
        if not self._need(chain.result, chain.result_view, self._box):
            return False
        for at in reversed(chain.inside):
            op = chain.ops[at]
            view, name = out_view(op), op.writes[0][1]
            box = chain.digits[name].seen(view, self._held[name]) if name in self._held else None
            found = None if box is None else piece(op, box)
            if found is None or not self._need(name, view, found.makes):
                return False
            self._pieces[at] = found
            for (source, looked), needed in zip(_looks(op), found.needs, strict=False):
                if source in chain.digits and not self._need(source, looked, needed):
                    return False
        return True

    def _need(self, name: str, view: View, box: Box) -> bool:
        digits = self._chain.digits[name].box(view, box)
        if digits is None:
            return False
        self._held[name] = hull(digits, self._held.get(name))
        return True

    def ops(self) -> list[Op] | None:
        """The ops of this box, in order; None where a view has no strides in the memory of the box alone."""
        chain, found = self._chain, list[Op]()
        direct = self._is_direct()
        for at in chain.inside:
            op, part = chain.ops[at], self._pieces[at]
            views = [self._view(*look, box) for look, box in zip(_looks(op), part.needs, strict=False)]
            outs = [self._out(op, number, view, part) for number, view in enumerate(op.get("outs"))]
            if direct and at == chain.inside[-1]:
                outs[0] = (chain.result, narrowed(chain.result_view, self._box))
            if any(one is None for one in (*views, *outs)):
                return None
            given, made = [one for one in views if one], [one for one in outs if one]
            found += self._leaf(at, given[0], made[0][0]) if op.kind == "linear" else [_with(op, part, given, made)]
        if not direct:
            source = self._view(chain.result, chain.result_view, self._box)
            if source is None:
                return None
            found.append(_copy(source, (chain.result, narrowed(chain.result_view, self._box))))
        return found

    def _leaf(self, at: int, x: tuple[str, View], out: str) -> list[Op]:
        """A leaf over this box, and before it what brings its input together where that lies apart."""
        op, part, before = self._chain.ops[at], self._pieces[at], list[Op]()
        held = self._held.get(op.reads[0][1])
        if not reads_as_it_lies(op, x[1], prod(sizes_of(held)) if held else 0):
            own = Buffer(f"{x[0]}.{self._mark}.{at}", (prod(x[1][1]),), "int32", "buffers", "step")
            self.buffers.append(own)
            before, x = [_copy(x, (own.name, packed(x[1])))], (own.name, packed(x[1]))
        return [*before, leaf(op, x, out, part.args, part.makes)]

    def _is_direct(self) -> bool:
        """Whether the last op can write its box where the result lies: nothing else in the chain touches that."""
        chain, last = self._chain, self._chain.inside[-1]
        touching = [at for at in chain.inside if any(name == chain.result for name, _ in _looks(chain.ops[at]))]
        return touching == [last] and self._pieces[last].makes == self._box and _writes_anywhere(chain.ops[last])

    def _view(self, name: str, view: View, box: Box) -> tuple[str, View] | None:
        """A box of what an op reads: where it always lies, or in this box's own memory."""
        if name not in self._chain.digits:
            return name, narrowed(view, box)
        found = self._chain.digits[name].alone(view, box, self._held[name])
        return None if found is None else (self._own(name, self._held[name], view[0]), found)

    def _out(self, op: Op, number: int, view: View, part: Piece) -> tuple[str, View] | None:
        """What an op writes; what it gives beside its first output nobody reads."""
        name = op.writes[number][1]
        if name not in self._chain.digits:
            return name, view
        if number and view[1] != out_view(op)[1]:
            return None
        box = part.makes
        held = self._held.get(name) if number == 0 else None
        if held is None:
            held = self._chain.digits[name].box(view, box) or ()
            self._held[name] = held
        found = self._chain.digits[name].alone(view, box, held) if held else None
        return None if found is None else (self._own(name, held, view[0]), found)

    def _own(self, name: str, held: Box, dtype: str) -> str:
        own = f"{name}.{self._mark}"
        if all(buffer.name != own for buffer in self.buffers):
            words = -(-prod(sizes_of(held)) * VALUE_BYTES[dtype] // 4)
            self.buffers.append(Buffer(own, (max(1, words),), "int32", "buffers", "step"))
        return own


def _writes_anywhere(op: Op) -> bool:
    return op.kind == "aten" and bool(op.get("outs"))


def _with(op: Op, part: Piece, views: Sequence[tuple[str, View]], outs: Sequence[tuple[str, View]]) -> Op:
    """An op on other memory, with the arguments of its part."""
    share = prod(sizes_of(part.makes)) / max(1, prod(out_view(op)[1]))
    changed = {
        "views": tuple(view for _, view in views), "outs": tuple(view for _, view in outs),
        "args": json.dumps(part.args), "multiply_adds": op.get("multiply_adds", 0.0) * share,
    }  # fmt: skip
    names = [name for name, _ in outs] or [views[0][0]]
    return replace(
        op,
        reads=tuple((role, name) for (role, _), (name, _) in zip(op.reads, views, strict=True)),
        writes=tuple((role, name) for (role, _), name in zip(op.writes, names, strict=True)),
        attributes=tuple((key, changed.get(key, value)) for key, value in op.attributes),
    )


def _copy(source: tuple[str, View], to: tuple[str, View]) -> Op:
    knobs = (
        ("call", "clone.default"), ("args", '[{"t": 0}]'), ("kwargs", "{}"), ("views", (source[1],)),
        ("outs", (to[1],)), ("multiply_adds", 0.0),
    )  # fmt: skip
    return Op("aten", (("tensor", source[0]),), (("out", to[0]),), knobs)


def evenly(num: int, parts: int) -> list[tuple[int, int]]:
    """`num` places in at most so many ranges, the longest no more than one longer than the shortest."""
    parts = max(1, min(parts, num))
    marks = [num * i // parts for i in range(parts + 1)]
    return list(pairwise(marks))
