"""One call of PyTorch's own library (ATen) on views of buffers: what a module computes beside its packed leaves.

`call` names the operator and its overload, `args` and `kwargs` are JSON in which {"t": i} stands for the i-th buffer
read. `views` say of each buffer read how it is looked at, `outs` of each one written: (dtype, sizes, strides, offset),
in values of that dtype. A call that changes what it reads writes those buffers, and has no `outs`. Which calls there
may be, and what is known of them, says `program.calls`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, prod

from pintpot.errors import UsageError, need
from pintpot.program.calls import fits, meaning, pace, puts
from pintpot.program.demand import Demand, Work
from pintpot.program.spec import Extent, Op, Program

VALUE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "int32": 4, "uint8": 1, "bool": 1}
"""What a tensor may hold."""

NARROW = ("product", "convolution")
"""What has a rate of its own in bfloat16."""
View = tuple[str, tuple[int, ...], tuple[int, ...], int]
"""dtype, sizes, strides, offset."""


def check(op: Op, program: Program) -> None:
    views, outs = op.get("views", ()), op.get("outs", ())
    call = op.get("call")
    need(isinstance(call, str) and meaning(call) is not None, f"a recording may not call {call!r:.60}", UsageError)
    need(len(views) == len(op.reads), f"aten reads {len(op.reads)} buffers by {len(views)} views", UsageError)
    need(not outs or len(outs) == len(op.writes), f"aten writes {len(op.writes)} buffers by {len(outs)}", UsageError)
    for (_, name), view in (*zip(op.reads, views, strict=True), *(zip(op.writes, outs, strict=True) if outs else ())):
        room = 4 * prod(program.shape(name))
        need(0 <= end_bytes(view) <= room, f"aten looks beyond {name}, which has {room} bytes", UsageError)
    known = fits(call, op.get("args"), op.get("kwargs"), [sizes for _, sizes, _, _ in views])
    need(known, f"{call} is called with what does not fit together", UsageError)


def end_bytes(view: View) -> int:
    """Bytes from the start of a buffer to the end of a view; -1 for a view that cannot be."""
    dtype, sizes, strides, offset = view
    if dtype not in VALUE_BYTES or len(sizes) != len(strides) or min((*sizes, *strides, offset), default=0) < 0:
        return -1
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if all(sizes) else -1
    return (offset + last + 1) * VALUE_BYTES[dtype]


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent: the shapes of its views are numbers."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    views, outs, adds = op.get("views", ()), op.get("outs", ()), float(op.get("multiply_adds", 0.0))
    does = meaning(op.get("call"))
    # Of a table only the rows that are given back are read, and of one that rows are put in only those are touched.
    put = puts(op.get("call"))
    read, given = _amounts(views[1:] if does == "lookup" or put else views), _amounts(outs)
    values, num_bytes = max(read[0], given[0]), read[1] * (2 if put else 1) + given[1] * (2 if does == "lookup" else 1)
    if does == "sort":
        values *= log2(max((2, *(size for _, sizes, _, _ in views for size in sizes))))
    what = pace(op.get("call"), op.get("args"))
    amount, size = (adds, _size(what, outs, adds)) if does == "product" else (values, round(values))
    work = [Work("aten", 1.0)]
    if what == "convolution":
        # Its weight is laid out anew in each call.
        weight = prod(views[1][1])
        work.append(Work("aten/values", float(weight), weight))
    if what in NARROW and views[-1][0] == "bfloat16":
        what += "_bf16"
    return Demand((*work, Work(f"aten/{what}", amount, size)), multiply_adds=adds, ram_bytes=num_bytes)


def _size(what: str, outs: Sequence[View], adds: float) -> int:
    """Of a product its rows, of a convolution all it multiplies: what its speed depends on."""
    if what in ("convolution", "grouped"):
        return round(adds)
    sizes = outs[0][1] if outs else (1, 1)
    return sizes[-2] if len(sizes) > 1 else 1


def _amounts(views: Sequence[View]) -> tuple[float, float]:
    """Values and bytes that are looked at."""
    values = [(prod(sizes), VALUE_BYTES[dtype]) for dtype, sizes, _, _ in views]
    return float(sum(count for count, _ in values)), float(sum(count * size for count, size in values))
