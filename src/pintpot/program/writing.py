"""Calls of PyTorch's library written by hand: each gives a new piece of memory that lives inside one replay."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from pintpot.program.ops.aten import VALUE_BYTES, View
from pintpot.program.rewriting import with_ops
from pintpot.program.spec import Buffer, Op, Program

Number = int | float | bool


@dataclass(frozen=True, slots=True)
class Seen:
    """A buffer, and how it is looked at."""

    name: str
    view: View

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.view[1]


@dataclass
class Writer:
    """Ops in the order in which they are written, and the buffers that they make, whose names begin with `mark`."""

    mark: str
    ops: list[Op] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)

    def call(
        self,
        name: str,
        *args: Seen | Number | str | Sequence[int],
        sizes: tuple[int, ...] | None = None,
        dtype: str | None = None,
        into: Seen | None = None,
        **kwargs: object,
    ) -> Seen:
        """A call with one result, as large as its first tensor and of that dtype, where nothing else is said."""
        tensors = [one for one in args if isinstance(one, Seen)]
        kind = dtype or tensors[0].view[0]
        shape = tensors[0].sizes if sizes is None else sizes
        out = into or self._new(kind, shape)
        said = [{"t": tensors.index(one)} if isinstance(one, Seen) else one for one in args]
        attributes = (
            ("call", name), ("args", json.dumps(said)), ("kwargs", json.dumps(kwargs)),
            ("views", tuple(one.view for one in tensors)), ("outs", (out.view,)), ("multiply_adds", 0.0),
        )  # fmt: skip
        self.ops.append(Op("aten", tuple(("tensor", one.name) for one in tensors), (("out", out.name),), attributes))
        return out

    def to(self, x: Seen, dtype: str = "int32") -> Seen:
        """The same values in another dtype."""
        return self.call("_to_copy.default", x, dtype=dtype)

    def right(self, x: Seen, places: int) -> Seen:
        """Whole numbers shifted: divided by a power of two, and rounded down."""
        return self.call("bitwise_right_shift.Tensor_Scalar", x, places)

    def _new(self, dtype: str, sizes: tuple[int, ...]) -> Seen:
        name = f"{self.mark}.{len(self.buffers)}"
        words = -(-prod(sizes) * VALUE_BYTES[dtype] // 4)
        self.buffers.append(Buffer(name, (max(1, words),), "int32", "buffers", "step"))
        return Seen(name, (dtype, sizes, tuple(prod(sizes[i + 1 :]) for i in range(len(sizes))), 0))


def written_anew(
    program: Program, writers: Mapping[str, Callable[[Writer, list[Seen], Seen], None]], is_known: Callable[[Op], bool]
) -> Program | None:
    """A program whose calls of these names are other calls, where they are known; None where there are none such.

    A writer is given what a call reads and its first result, which it has to write.
    """
    ops, fresh = list[Op](), list[Buffer]()
    for at, op in enumerate(program.ops):
        write = writers.get(op.get("call", ""))
        if write is None or not is_known(op):
            ops.append(op)
            continue
        writer = Writer(f"written.{at}")
        seen = [Seen(name, view) for (_, name), view in zip(op.reads, op.get("views"), strict=True)]
        write(writer, seen, Seen(op.writes[0][1], op.get("outs")[0]))
        ops += writer.ops
        fresh += writer.buffers
    return with_ops(program, ops, fresh, len(program.ops) - 1) if fresh else None
