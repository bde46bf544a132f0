"""Floats of a block as a plan's transforming steps leave them, and matrices in the form in which they will be kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.contract.form import STRIP_ROWS, WeightForm
from pintpot.contract.statistics import Block, InputStatistics
from pintpot.formats import encoding, is_lossless
from pintpot.formats.columns_apart import joined, without
from pintpot.formats.convert import encode
from pintpot.packer.calibrate.chosen import Chosen
from pintpot.packer.calibrate.forward import Forward
from pintpot.packer.calibrate.parallel import ordered
from pintpot.packer.calibrate.source import RowSource
from pintpot.program.spec import Op

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Columns = NDArray[np.int64]
PART_ROWS = 32 * STRIP_ROWS
"""Rows of a weight are independent of each other, so they are rounded in parts, on several threads."""


def transformed(
    chosen: Chosen, name: str, ops: tuple[Op, ...], values: dict[str, Floats], inputs: Mapping[str, InputStatistics]
) -> dict[str, Floats]:
    """The floats of the block of this name after every step that transforms; `inputs` where one asks for them."""
    forms = {name: chosen.form.weights.by_name[name] for name in values}
    block = Block(name, ops, forms, values, dict(inputs))
    for step in chosen.transforms:
        step.transform(block)
    return block.values


def strips_of(
    chosen: Chosen,
    form: WeightForm,
    parts: Iterable[Floats],
    inputs: InputStatistics | None,
    threads: int,
    apart: Columns | None = None,
) -> Bytes:
    """Strips [S, strip bytes] of a matrix that comes in parts of rows; without `inputs` rounded to nearest.

    Of a format that keeps columns apart `apart` names them.
    """
    roundings, grid = () if inputs is None else chosen.rounding(form), form.in_grid

    def rounded(values: Floats) -> Bytes:
        for step in roundings:
            strips = None if inputs is None else step.round(grid, values, inputs)
            if strips is not None:
                return strips
        return encode(values, grid.format)

    def one(values: Floats) -> Bytes:
        if apart is None:
            return rounded(values)
        return joined(rounded(without(values, apart)), values, form.format, apart)

    return np.concatenate(list(ordered(one, parts, threads)))


def kept(
    forward: Forward,
    chosen: Chosen,
    form: WeightForm,
    values: Floats,
    inputs: InputStatistics | None,
    threads: int,
    apart: Columns | None = None,
) -> Bytes | None:
    """A matrix [N, K] in the form in which it will be kept; None where packing its file's values gives the same."""
    if is_lossless(form.source, form.format):
        same = not chosen.changes(form.name) or np.array_equal(values, forward.weight(form.name))
        if same:
            return None
    columns = apart if encoding(form.format).num_apart else None
    return strips_of(chosen, form, (values[first:stop] for first, stop in cut(form)), inputs, threads, columns)


def cut(form: WeightForm) -> list[tuple[int, int]]:
    """The parts of rows in which a matrix is rounded: first, and behind the last."""
    rows = form.shape[0]
    return [(first, min(first + PART_ROWS, rows)) for first in range(0, rows, PART_ROWS)]


@dataclass(frozen=True)
class Vocabulary:
    """Embedding and output head as a plan's transforming steps leave them, some rows at a time.

    What the stream is multiplied with is a block for itself, `embed` or `head`, whose rows come in parts, each with
    the norm before the head.
    """

    forward: Forward
    chosen: Chosen

    def rows(self, op: Op) -> RowSource | Turned:
        """The matrix of `op`, the embedding or the head."""
        name = str(op.read("weight"))
        source = self.forward.rows(name)
        return Turned(self, op, source) if self.chosen.changes(name) else source

    def strips(self, op: Op, inputs: InputStatistics | None, threads: int) -> Bytes:
        """The matrix of `op` in the form in which it will be kept."""
        form, rows = self.chosen.form.weights.by_name[str(op.read("weight"))], self.rows(op)
        return strips_of(self.chosen, form, (rows.part(*part) for part in cut(form)), inputs, threads)

    def norm(self) -> Floats:
        """The norm before the head."""
        name = str(self.forward.head.read("norm"))
        found = self.forward.weight(name)
        return self.part(self.forward.head, None, found)[name] if self.chosen.changes(name) else found

    def part(self, op: Op, rows: Floats | None, norm: Floats | None) -> dict[str, Floats]:
        """Rows [n, D] of the op's matrix, and the norm before it, transformed."""
        weight, name = str(op.read("weight")), op.read("norm")
        columns = self.chosen.form.weights.by_name[weight].shape[1]
        values = {weight: np.zeros((1, columns), np.float32) if rows is None else rows}
        if name is not None:
            values[name] = self.forward.weight(name) if norm is None else norm
        return transformed(self.chosen, weight, (op,), values, {})


@dataclass(frozen=True)
class Turned:
    """Rows of the embedding or the head, transformed when they are read."""

    vocabulary: Vocabulary
    op: Op
    source: RowSource

    def part(self, first: int, stop: int) -> Floats:
        """Rows [first, stop) in float32."""
        return self._changed(self.source.part(first, stop))

    def __getitem__(self, rows: NDArray[np.integer]) -> Floats:
        """Single rows: [len(rows), D]."""
        return self._changed(self.source[rows])

    def _changed(self, rows: Floats) -> Floats:
        return self.vocabulary.part(self.op, rows, None)[str(self.op.read("weight"))]
