"""A block of a module that could not be recorded: it was run and measured, and is computed by its own code.

`block` is its place in the module, `args` are JSON of its arguments, in which {"t": i} stands for the i-th tensor read
and lists, tuples and mappings say what they are (`kernels.torch.blocks`). `views` say of each tensor read how it is
looked at, `outs` of each one written, as in `ops.aten`. Its own parameters and buffers are read too, as `own`; `names`
is what the module calls them, `shapes` their dtypes and sizes. `seconds` (low, mid, high) and `inside`, the bytes that
it takes beside all these, are what it was seen to take on the machine that measured it.
"""

from __future__ import annotations

from math import isfinite, prod

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand, Work
from pintpot.program.ops.aten import VALUE_BYTES, end_bytes
from pintpot.program.spec import Extent, Op, Program

MOST_BYTES = 1 << 46


def check(op: Op, program: Program) -> None:
    inputs, own = (tuple(name for role, name in op.reads if role == wanted) for wanted in ("tensor", "own"))
    sides = ((inputs, op.get("views")), (tuple(name for _, name in op.writes), op.get("outs")))
    for names, views in sides:
        need(len(names) == len(views), f"a measured block has {len(names)} buffers and {len(views)} views", UsageError)
        for name, view in zip(names, views, strict=True):
            room = 4 * prod(program.shape(name))
            need(0 <= end_bytes(view) <= room, f"a measured block looks beyond {name} of {room} bytes", UsageError)
    shapes = op.get("shapes")
    need(len(own) == len(shapes) == len(op.get("names")), "a measured block has other weights than names", UsageError)
    for name, (dtype, sizes) in zip(own, shapes, strict=True):
        fits = dtype in VALUE_BYTES and prod(sizes) * VALUE_BYTES[dtype] <= 4 * prod(program.shape(name))
        need(fits, f"{name} is no {dtype} {sizes!r:.40}", UsageError)
    low, mid, high = op.get("seconds")
    need(0 <= low <= mid <= high and isfinite(high), f"a block measured to take {low} to {high} s", UsageError)
    need(type(op.get("inside")) is int and 0 <= op.get("inside") < MOST_BYTES, "a block of no size", UsageError)


def depends(op: Op, program: Program, extent: Extent) -> None:
    """On no extent: it was measured at one."""


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    return Demand((Work("aten", 1.0),), seconds=op.get("seconds"))
