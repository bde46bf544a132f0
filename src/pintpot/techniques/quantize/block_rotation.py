"""Neighbouring input columns are mixed by a Hadamard matrix before rounding, and what meets them likewise.

Outliers of a block are shared out among its columns, and the function is the same.

MR-GPTQ: Egiazarian et al. 2025, arXiv:2509.23202, block rotations as long as the groups that share a scale, for MXFP4
and NVFP4. What meets the output projection is rotated by the rows of `v`, for nothing; all other rows as they arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from pintpot.contract.form import Form, WeightForm, Weights, matches
from pintpot.contract.statistics import Block
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.formats import can_pack, encoding
from pintpot.model.spec import Model
from pintpot.program.spec import Op, Program, Table, Work

LEAST, MOST = 8, 4096
"""Columns of a block."""


@dataclass(frozen=True)
class BlockRotation(Step):
    """Blocks of `size` columns, shorter where that does not divide a weight's; `roles` of weights, "" for all."""

    paper: ClassVar[str] = "MR-GPTQ, Egiazarian et al. 2025, arXiv:2509.23202"
    facet: ClassVar[Facet] = Facet.TRANSFORM
    target: str = "blocks"
    size: int = 32
    roles: str = ""

    def check(self, model: Model, form: Form) -> None:
        need(self.target == "blocks", f"columns are rotated inside blocks, not in {self.target!r}", NotApplicable)
        power = LEAST <= self.size <= MOST and self.size & (self.size - 1) == 0
        need(power, f"a block has {LEAST} to {MOST} columns, a power of two, not {self.size}", NotApplicable)
        named = [w for w in form.weights if w.is_matrix and matches(self.target, w.name) and self._names(w.name)]
        need(bool(named), f"no weight in {self.target!r} has a role of {self.roles!r}", NotApplicable)
        fits = any(_fitting(self.size, w.shape[1]) for w in named)
        need(fits, f"no weight has columns in blocks of {LEAST} to {self.size}", NotApplicable)

    def rewrite(self, work: Work, form: Form) -> Work:
        def changed(program: Program) -> Program:
            ops = program.ops if isinstance(program.ops, Table) else Table(program.ops)
            return replace(program, ops=_rotated(self, ops, form.weights))

        stages = (replace(stage, programs=tuple(map(changed, stage.programs))) for stage in work.stages)
        return replace(work, stages=tuple(stages))

    def transform(self, block: Block) -> None:
        from pintpot.formats.hadamard import rotate_columns, rotate_rows

        for op in block.ops:
            size = self.block_size(op, block.forms)
            if not size:
                continue
            for name in op.read_all("weight"):
                block.values[name] = rotate_columns(block.values[name], size)
            for name in self.takes_up(op, block.ops, block.forms, size):
                block.values[name] = rotate_rows(block.values[name], size)

    def block_size(self, op: Op, forms: Mapping[str, WeightForm]) -> int:
        """Columns of the blocks in which an op's weights are rotated; 0 for one that stays as it is."""
        names = op.read_all("weight") if op.kind == "linear" else ()
        known = all(name in forms and matches(self.target, name) and self._names(name) for name in names)
        if not names or not known or not all(_reachable(forms[name]) for name in names):
            return 0
        low_bit = any(encoding(forms[name].format).kind != "float" for name in names)
        return _fitting(self.size, forms[names[0]].shape[1]) if low_bit else 0

    def _names(self, name: str) -> bool:
        return not self.roles or name.rpartition(".")[2] in self.roles.split()

    def takes_up(self, op: Op, ops: tuple[Op, ...], forms: Mapping[str, WeightForm], size: int) -> tuple[str, ...]:
        """The weight and the bias whose rows, rotated, rotate what meets the op; none where it must do so itself."""
        makers = {name: other for other in ops for role, name in other.writes if role == "out"}
        attend = makers.get(str(op.read("x")))
        if op.get("prologue", "none") != "none" or attend is None or attend.kind != "attend":
            return ()
        maker = makers[str(attend.read("qkv"))]
        value, *bias = *maker.read_all("weight")[-1:], *maker.read_all("bias")[-1:]
        shared = attend.get("head_dim") % size == 0 and len(maker.read_all("weight")) == 3
        return (value, *bias) if shared and _reachable(forms[value]) else ()


@lru_cache(maxsize=64)
def _rotated(step: BlockRotation, ops: Table[Op], weights: Weights) -> Table[Op]:
    """The ops, those that rotate what meets their weights marked."""
    forms = weights.by_name

    def marked(op: Op) -> Op:
        size = step.block_size(op, forms)
        online = size and not step.takes_up(op, ops, forms, size)
        return replace(op, attributes=(*op.attributes, ("rotate", size))) if online else op

    return Table(map(marked, ops))


def _fitting(size: int, columns: int) -> int:
    """The largest power of two up to `size` that divides so many columns; 0 where it is too small to be of use."""
    found = min(size, columns & -columns)
    return found if found >= LEAST else 0


def _reachable(form: WeightForm) -> bool:
    return form.packed and can_pack("f32", form.format)
