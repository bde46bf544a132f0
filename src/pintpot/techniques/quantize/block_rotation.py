"""Neighbouring input columns are mixed by a Hadamard matrix before rounding, and what meets them likewise.

Outliers of a block are shared out among its columns, and the function is the same. MR-GPTQ: Egiazarian et al. 2025,
arXiv:2509.23202, block rotations as long as the groups that share a scale, for MXFP4 and NVFP4. What meets the output
projection is rotated by the rows of `v`, for nothing; all other rows as they arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pintpot.contract.form import Form, matches
from pintpot.contract.rotation import LEAST, MOST, Forms, Rotation, fitting, is_low_bit, reachable, value_rows
from pintpot.contract.statistics import Block
from pintpot.errors import NotApplicable, need
from pintpot.model.spec import Model
from pintpot.program.spec import Op, Work


@dataclass(frozen=True)
class BlockRotation(Rotation):
    """Blocks of `size` columns, shorter where that does not divide a weight's; `roles` of weights, "" for all."""

    paper: ClassVar[str] = "MR-GPTQ, Egiazarian et al. 2025, arXiv:2509.23202"
    target: str = "blocks"
    size: int = 32
    roles: str = ""

    def check(self, model: Model, form: Form) -> None:
        need(self.target == "blocks", f"columns are rotated inside blocks, not in {self.target!r}", NotApplicable)
        power = LEAST <= self.size <= MOST and self.size & (self.size - 1) == 0
        need(power, f"a block has {LEAST} to {MOST} columns, a power of two, not {self.size}", NotApplicable)
        named = [w for w in form.weights if w.is_matrix and matches(self.target, w.name) and self._names(w.name)]
        need(bool(named), f"no weight in {self.target!r} has a role of {self.roles!r}", NotApplicable)
        fits = any(fitting(self.size, w.shape[1]) for w in named)
        need(fits, f"no weight has columns in blocks of {LEAST} to {self.size}", NotApplicable)

    def rewrite(self, work: Work, form: Form) -> Work:
        """Raises NotApplicable where no weight would be rounded after its rotation."""
        ops = work.stages[0].programs[0].ops
        found = any(self._size(op, form.weights.by_name) for op in ops)
        need(found, "no weight is rounded to few bits from floats, so rotating gains nothing", NotApplicable)
        return super().rewrite(work, form)

    def online(self, op: Op, ops: Sequence[Op], forms: Forms) -> int:
        size = self._size(op, forms)
        return 0 if self._folded(op, ops, forms, size) else size

    def transform(self, block: Block) -> None:
        from pintpot.formats.hadamard import rotate_columns, rotate_rows

        for op in block.ops:
            size = self._size(op, block.forms)
            for name in op.read_all("weight") if size else ():
                block.values[name] = rotate_columns(block.values[name], size)
            for name in self._folded(op, block.ops, block.forms, size):
                block.values[name] = rotate_rows(block.values[name], size)

    def _size(self, op: Op, forms: Forms) -> int:
        """Columns of the blocks in which an op's weights are rotated; 0 for one that stays as it is."""
        names = op.read_all("weight") if op.kind == "linear" else ()
        if not names or not all(n in forms and matches(self.target, n) and self._names(n) for n in names):
            return 0
        found = [forms[name] for name in names]
        rounded = all(map(reachable, found)) and any(map(is_low_bit, found))
        return fitting(self.size, found[0].shape[1]) if rounded else 0

    def _folded(self, op: Op, ops: Sequence[Op], forms: Forms, size: int) -> tuple[str, ...]:
        """The weight and the bias whose rows, rotated, rotate what meets the op; none where it must do so itself."""
        found = value_rows(op, ops, size)
        return found if found and reachable(forms[found[0]]) else ()

    def _names(self, name: str) -> bool:
        return not self.roles or name.rpartition(".")[2] in self.roles.split()
