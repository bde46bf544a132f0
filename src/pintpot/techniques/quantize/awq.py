"""Columns that matter are made larger before rounding, and their inputs smaller by as much: the function is the same.

AWQ: Lin et al. 2023, arXiv:2306.00978. The scale of column k of an input is mean|x_k|^alpha, with the alpha that leaves
the least squared error of the outputs (its diagonal) after rounding to nearest; 1 / scale is folded into
what makes the input: the norm before it, the rows of `up`, the rows of `v` (then equal for query heads that share one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.statistics import SCALES, Block
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.formats import is_lossless
from pintpot.model.spec import Model
from pintpot.program.ops.linear import gated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pintpot.program.spec import Op

    Floats = NDArray[np.float32]

SAMPLED_ROWS = 256
"""An alpha is judged by so many rows of each weight at most."""
LEAST_SCALE = 1e-4


@dataclass(frozen=True)
class Awq(Step):
    """Scaling inside blocks, tried with `steps` alphas; not offered, for its gain beside GPTQ is not shown."""

    paper: ClassVar[str] = "AWQ, Lin et al. 2023, arXiv:2306.00978"
    facet: ClassVar[Facet] = Facet.TRANSFORM
    needs: ClassVar[frozenset[str]] = frozenset({SCALES})
    target: str = "blocks"
    steps: int = 11

    def check(self, model: Model, form: Form) -> None:
        need(self.target == "blocks", f"scales are folded inside blocks, not in {self.target!r}", NotApplicable)
        need(2 <= self.steps <= 101, f"{self.steps} values of alpha cannot be tried", NotApplicable)

    def transform(self, block: Block) -> None:
        for op in block.ops:
            if op.kind == "linear" and self._shared(block, op) is not None and self._scalable(block, op):
                self._scale(block, op)

    def _scalable(self, block: Block, op: Op) -> bool:
        """Whether all matrices that would change, the one that takes up the scales among them, are rounded anew."""
        names = [*op.read_all("weight"), *self._maker(block, op)[:1]]
        return all(matches(self.target, name) and _reachable(block.forms[name]) for name in names)

    def _maker(self, block: Block, op: Op) -> tuple[str, ...]:
        """The last weight, and its bias, of the op whose outputs meet this one, past attention; none for a norm."""
        if op.get("prologue") == "rmsnorm":
            return ()
        makers = {other.write("out"): other for other in block.ops}
        maker = makers[op.read("x")]
        if maker.kind == "attend":
            maker = makers[maker.read("qkv")]
        return (*maker.read_all("weight")[-1:], *maker.read_all("bias")[-1:])

    def _shared(self, block: Block, op: Op) -> int | None:
        """How many columns in a row of heads have one scale; None where nothing before this op can take it up."""
        before = {name: other for other in block.ops for role, name in other.writes if role == "out"}
        if op.get("prologue") == "rmsnorm":
            return 1
        maker = before.get(str(op.read("x")))
        if gated(op) and maker is not None and maker.kind == "linear":
            return 1 if len(maker.read_all("weight")) == 2 else None
        if maker is None or maker.kind != "attend":
            return None
        return int(maker.get("heads") // maker.get("kv_heads"))

    def _scale(self, block: Block, op: Op) -> None:
        import numpy as np

        names = op.read_all("weight")
        inputs = block.inputs[names[0]]
        base = self._alike(block, op, inputs.mean_abs)
        best = (np.inf, np.ones_like(base))
        for alpha in np.linspace(0, 1, self.steps):
            scales = _normed(base, float(alpha))
            error = sum(_error(block.values[n], block.forms[n], scales, inputs.mean_square) for n in names)
            if error < best[0]:
                best = (error, scales)
        scales = best[1]
        for name in names:
            block.values[name] = block.values[name] * scales
            block.inputs[name] = inputs
        seen = inputs.scaled(np.reciprocal(scales))
        block.inputs.update(dict.fromkeys(names, seen))
        self._take_up(block, op, scales)

    def _alike(self, block: Block, op: Op, mean_abs: Floats) -> Floats:
        """Mean magnitudes [K], those of query heads that share a value head made one."""
        group = self._shared(block, op) or 1
        if group == 1:
            return mean_abs
        attend = next(other for other in block.ops if other.write("out") == op.read("x"))
        by_head = mean_abs.reshape(attend.get("kv_heads"), group, attend.get("head_dim"))
        alike: Floats = by_head.mean(axis=1, keepdims=True).repeat(group, axis=1).reshape(-1)
        return alike

    def _take_up(self, block: Block, op: Op, scales: Floats) -> None:
        """Make what feeds the op smaller by the scales of its columns."""
        values = block.values
        if op.get("prologue") == "rmsnorm":
            norm = str(op.read("norm"))
            values[norm] = values[norm] / scales
            return
        before = next(other for other in block.ops if other.write("out") == op.read("x"))
        if before.kind == "attend":
            by_head = scales.reshape(before.get("kv_heads"), -1, before.get("head_dim"))
            scales = by_head[:, 0].reshape(-1)
        weight, *bias = self._maker(block, op)
        values[weight] = values[weight] / scales[:, None]
        for name in bias:
            values[name] = values[name] / scales


def _reachable(form: WeightForm) -> bool:
    """Whether a matrix is rounded anyway: one that is kept as its file has it would only lose by being scaled."""
    return form.packed and not is_lossless(form.source, form.format)


def _normed(base: Floats, alpha: float) -> Floats:
    """base^alpha, with the product of its largest and smallest made 1."""
    import numpy as np

    scales = np.maximum(base, LEAST_SCALE * float(base.max()) or 1.0) ** np.float32(alpha)
    return np.asarray(scales / np.sqrt(scales.max() * scales.min()), np.float32)


def _error(values: Floats, form: WeightForm, scales: Floats, mean_square: Floats) -> float:
    """The diagonal of the squared error of some rows, rounded to nearest after scaling."""
    import numpy as np

    from pintpot.formats.convert import encode
    from pintpot.formats.tiles import unpack

    rows = values[:: -(-len(values) // SAMPLED_ROWS)]
    rounded = unpack(encode(rows * scales, form.format, search=False), form.format, *rows.shape)
    error = np.square(rounded / scales - rows).sum(axis=0, dtype=np.float64)
    return float(error @ mean_square) * len(values) / len(rows)
