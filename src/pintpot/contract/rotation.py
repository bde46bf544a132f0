"""What rotations of channels share: which ops must rotate what meets their weights, and whose rows could instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from pintpot.contract.form import Form, WeightForm, Weights
from pintpot.contract.step import Facet, Step
from pintpot.formats import encoding
from pintpot.program.spec import Op, Program, Table, Work

LEAST, MOST = 8, 4096
"""Channels that are rotated together."""
Forms = Mapping[str, WeightForm]


@dataclass(frozen=True)
class Rotation(Step):
    """A step after which some linear ops rotate what meets their weights."""

    facet: ClassVar[Facet] = Facet.TRANSFORM

    def remains(self, weight: WeightForm) -> tuple[float, float]:
        """Measured with benchmarks/calibration.py: 0.83 to 1.18 of the nats without, by format, size and rounding."""
        return 0.8, 1.2

    def online(self, op: Op, ops: Sequence[Op], forms: Forms) -> int:
        """The channels that one of these ops rotates together as they arrive; 0 where it does not."""
        raise NotImplementedError

    def rewrite(self, work: Work, form: Form) -> Work:
        def changed(program: Program) -> Program:
            ops = program.ops if isinstance(program.ops, Table) else Table(program.ops)
            return replace(program, ops=_rotating(self, ops, form.weights))

        stages = (replace(stage, programs=tuple(map(changed, stage.programs))) for stage in work.stages)
        return replace(work, stages=tuple(stages))


@lru_cache(maxsize=64)
def _rotating(step: Rotation, ops: Table[Op], weights: Weights) -> Table[Op]:
    def marked(op: Op) -> Op:
        size = step.online(op, ops, weights.by_name)
        return replace(op, attributes=(*op.attributes, ("rotate", size))) if size else op

    return Table(map(marked, ops))


def value_rows(op: Op, ops: Sequence[Op], size: int) -> tuple[str, ...]:
    """The weight and the bias whose rows, rotated by `size`, rotate what attention gives to an op.

    None where the op's input is no bare output of attention, of all its rows or some, or heads cannot be cut so.
    """
    makers = {name: other for other in ops for role, name in other.writes if role == "out"}
    attend = makers.get(str(op.read("x")))
    while attend is not None and attend.kind == "select":
        attend = makers.get(str(attend.read("x")))
    if op.get("prologue", "none") != "none" or attend is None or attend.kind != "attend":
        return ()
    maker = makers[str(attend.read("qkv"))]
    if size < 2 or attend.get("head_dim") % size or len(maker.read_all("weight")) != 3:
        return ()
    return (maker.read_all("weight")[2], *maker.read_all("bias")[2:])


def fitting(size: int, columns: int) -> int:
    """The largest power of two up to `size` that divides so many columns; 0 where it is too small to be of use."""
    found = min(size, columns & -columns)
    return found if found >= LEAST else 0


def reachable(form: WeightForm) -> bool:
    """Whether other values than the file's can be kept in this form: mixed, zeros are none."""
    return form.packed and encoding(form.format).kind != "two_four"


def is_low_bit(form: WeightForm) -> bool:
    return encoding(form.format).kind != "float"
