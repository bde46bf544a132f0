"""Memory that a call of PyTorch's library takes while it runs, beside what it is given and gives back.

Bounds, from what its operators do: those without a form that writes into given memory make their result aside; those
that want their inputs in another order copy them; a convolution has its picture, its weight and its result in blocks as
well; attention and sorting have some memory for each thread. What is freed may stay with the process for a while, so
the largest of all calls is what is held.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

from pintpot.program.alike import alike
from pintpot.program.calls import ATTENTION, BY_VALUE, meaning
from pintpot.program.ops.aten import VALUE_BYTES, View
from pintpot.program.spec import Op, Program

_WRITE_DIRECTLY = """
mm addmm bmm baddbmm mv dot cat gather index_select take _softmax _log_softmax sum mean amax amin prod norm cumsum
max_pool2d_with_indices avg_pool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d
upsample_bicubic2d upsample_linear1d upsample_trilinear3d tril triu
"""
_READ_IN_ANY_ORDER = "cat gather index_select take embedding sum mean amax amin prod"
_DIRECT = BY_VALUE | frozenset(_WRITE_DIRECTLY.split())
"""Calls that write where they are told."""
_ANY_ORDER = BY_VALUE | frozenset(_READ_IN_ANY_ORDER.split())
"""Calls that read their inputs as they lie."""
THREAD_BYTES = 1 << 20
"""Of each thread: blocks of a product, of attention, of a row that is sorted."""


def inside_bytes(program: Program, threads: int) -> int:
    """The most that any call of this program takes, or any block that was measured; 0 where there is none."""
    kinds = {"aten": lambda op: _of_call(op, threads), "measured": lambda op: int(op.get("inside"))}
    return max((kinds[item.op.kind](item.op) for item in alike(program) if item.op.kind in kinds), default=0)


@lru_cache(maxsize=4096)
def _of_call(op: Op, threads: int) -> int:
    call, views, outs = str(op.get("call")), op.get("views", ()), op.get("outs", ())
    name, does = call.partition(".")[0], meaning(call)
    given, made = sum(map(_num_bytes, views)), sum(map(_num_bytes, outs))
    own = threads * THREAD_BYTES if does in ("product", "sort") else 0
    if name == "convolution":
        return own + given + 2 * made
    if name == ATTENTION:
        return own + given + made
    if does == "sort":
        return own + 2 * given + 3 * made
    odd = 0 if name.removesuffix("_") in _ANY_ORDER else sum(_num_bytes(view) for view in views if not _is_dense(view))
    return own + odd + (0 if name in _DIRECT else made)


def _num_bytes(view: View) -> int:
    dtype, sizes, _, _ = view
    return prod(sizes) * VALUE_BYTES[dtype]


def _is_dense(view: View) -> bool:
    _, sizes, strides, _ = view
    return strides == tuple(prod(sizes[at + 1 :]) for at in range(len(sizes)))
