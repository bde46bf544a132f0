"""Softmax, GELU and layer norm of a vision transformer in integers: shifts, sums and one division.

I-ViT (Li and Gu 2022, arXiv:2207.01405): Shiftmax, ShiftGELU and I-LayerNorm. Values come in whole steps of the largest
of them over 127 (over 32767 before a norm), as large as it is then, and go as floats. Float vectors compute the same
functions faster (`benchmarks/integer_functions.py`), so no plan is offered it: it is for devices without floats.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import sqrt
from typing import ClassVar, Final

from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.model.adapted import recorded_calls
from pintpot.model.spec import Model
from pintpot.program.ops.aten import View
from pintpot.program.rewriting import rewritten
from pintpot.program.spec import Op, Program, Work
from pintpot.program.writing import Seen, Writer, written_anew

LARGEST = 2**31 - 1
OF_SOFTMAX, OF_GELU = 15, 23
"""Halvings of an exponential that are told from nothing: its scale is 2 to the minus so many."""
ROOT_STEPS = 10


@dataclass(frozen=True)
class IntegerVit(Step):
    """Softmax, GELU and layer norm in integers, where they run over the last axis."""

    paper: ClassVar[str] = "I-ViT, Li and Gu 2022, arXiv:2207.01405"
    facet: ClassVar[Facet] = Facet.FUNCTIONS

    @property
    def key(self) -> str:
        return "functions/i-vit"

    def check(self, model: Model, form: Form) -> None:
        calls = recorded_calls(model)
        need(
            not calls.isdisjoint(_WRITERS), "the model calls no softmax, GELU or layer norm of PyTorch's", NotApplicable
        )

    def rewrite(self, work: Work, form: Form) -> Work:
        found = rewritten(work, _in_integers)
        if found is None:
            raise NotApplicable("no softmax, GELU or layer norm of the model runs over its last axis")
        return found


@lru_cache(maxsize=64)
def _in_integers(program: Program) -> Program | None:
    return written_anew(program, _WRITERS, _is_known)


def _is_known(op: Op) -> bool:
    view: View = op.get("views")[0]
    args = json.loads(op.get("args"))
    last = args[1] in (-1, len(view[1]) - 1) if op.get("call") == "_softmax.default" else True
    whole = len(args[1]) == 1 if op.get("call") == "native_layer_norm.default" else True
    return view[0] == "float32" and len(view[1]) > 0 and last and whole


def _rounded(w: Writer, x: Seen, levels: int, shifts: int) -> tuple[Seen, Seen]:
    """x in whole steps, and how many of them are one, both as floats."""
    axes = list(range(len(x.sizes)))
    largest = w.call("amax.default", w.call("abs.default", x), axes, True, sizes=(1,) * len(axes))
    # An exponential at its largest is a number of steps in one, shifted, which has to stay a number of 31 bits.
    steps = w.call("reciprocal.default", w.call("clamp_min.default", largest, levels / 2 ** (30 - shifts)))
    steps = w.call("mul.Tensor", steps, float(levels))
    return w.call("round.default", w.call("mul.Tensor", x, steps, sizes=x.sizes)), steps


def _steps(w: Writer, x: Seen, shifts: int) -> tuple[Seen, Seen, Seen]:
    """x and one in whole steps, and one as a float."""
    steps, per_one = _rounded(w, x, 127, shifts)
    return w.to(steps), w.to(w.call("clamp_min.default", w.call("floor.default", per_one), 1.0)), per_one


def _exponential(w: Writer, x: Seen, one: Seen, shifts: int) -> Seen:
    """e^x of whole steps x, none above zero: 2^(x log2 e), whole halvings by shifts and the rest by a line."""
    scaled = w.call("sub.Tensor", w.call("add.Tensor", x, w.right(x, 1)), w.right(x, 4))
    scaled = w.call("maximum.default", scaled, w.call("mul.Tensor", one, -shifts))
    halvings = w.call("div.Tensor_mode", scaled, w.call("neg.default", one), rounding_mode="floor")
    rest = w.call("add.Tensor", scaled, w.call("mul.Tensor", halvings, one))
    line = w.call("add.Tensor", w.right(rest, 1), one)
    return w.call("bitwise_left_shift.Tensor", line, w.call("rsub.Scalar", halvings, shifts))


def _share(w: Writer, part: Seen, of: Seen, bits: int) -> Seen:
    """part / of, in steps of 2^(1 - bits)."""
    over = w.call("div.Tensor_mode", w.call("full_like.default", of, LARGEST), of, rounding_mode="floor")
    return w.right(w.call("mul.Tensor", part, over), 32 - bits)


def _shiftmax(w: Writer, seen: list[Seen], out: Seen) -> None:
    x, one, _ = _steps(w, seen[0], OF_SOFTMAX)
    row = (*x.sizes[:-1], 1)
    grown = _exponential(w, w.call("sub.Tensor", x, w.call("amax.default", x, [-1], True, sizes=row)), one, OF_SOFTMAX)
    total = w.call("sum.dim_IntList", grown, [-1], True, sizes=row, dtype="int64")
    share = _share(w, grown, w.to(w.call("clamp_max.default", total, LARGEST)), 16)
    w.call("mul.Tensor", w.to(share, "float32"), 2.0**-15, into=out)


def _shift_gelu(w: Writer, seen: list[Seen], out: Seen) -> None:
    """x times the logistic function of 1.6875 x. Both sides of its fraction are scaled by each value's own exponential
    where it is above 1: by the largest of a row, as published, both would vanish where values lie far apart.
    """
    x, one, per_one = _steps(w, seen[0], OF_GELU)
    wide = reduce(lambda total, places: w.call("add.Tensor", total, w.right(x, places)), (1, 3, 4), x)
    top = w.call("clamp_min.default", wide, 0)
    grown = _exponential(w, w.call("sub.Tensor", wide, top), one, OF_GELU)
    beside = _exponential(w, w.call("neg.default", top), one, OF_GELU)
    # Halves, so that the sum of two of them is a number of 31 bits.
    grown, beside = w.right(grown, 1), w.right(beside, 1)
    share = _share(w, grown, w.call("clamp_min.default", w.call("add.Tensor", grown, beside), 1), 8)
    product = w.to(w.call("mul.Tensor", x, share), "float32")
    w.call("div.Tensor", w.call("mul.Tensor", product, 2.0**-7), per_one, into=out)


def _norm(w: Writer, seen: list[Seen], out: Seen) -> None:
    steps, _ = _rounded(w, seen[0], 32767, OF_SOFTMAX)
    x = w.to(steps, "int64")
    row, width = (*x.sizes[:-1], 1), x.sizes[-1]
    total = w.call("sum.dim_IntList", x, [-1], True, sizes=row)
    x = w.call("sub.Tensor", x, w.call("div.Tensor_mode", total, width, rounding_mode="floor"))
    squares = w.call("sum.dim_IntList", w.call("mul.Tensor", x, x), [-1], True, sizes=row)
    root = w.call("full_like.default", squares, 2**16)
    for _ in range(ROOT_STEPS):
        more = w.call("div.Tensor_mode", squares, root, rounding_mode="floor")
        root = w.call("clamp_min.default", w.right(w.call("add.Tensor", root, more), 1), 1)
    over = w.call("div.Tensor_mode", w.call("full_like.default", root, LARGEST), root, rounding_mode="floor")
    scaled = w.to(w.right(w.call("mul.Tensor", x, over), 1), "float32")
    result = w.call("mul.Tensor", scaled, sqrt(width) / 2**30)
    for call, factor in zip(("mul.Tensor", "add.Tensor"), seen[1:], strict=False):
        result = w.call(call, result, factor)
    w.call("clone.default", result, into=out)


_WRITERS: Final[dict[str, Callable[[Writer, list[Seen], Seen], None]]] = {
    "_softmax.default": _shiftmax,
    "gelu.default": _shift_gelu,
    "native_layer_norm.default": _norm,
}
