"""PROOF: a weight as the kernels read it, in float32 some rows at a time: strips of a pack, or made now by a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pintpot.contract.form import STRIP_ROWS, WeightForm
from pintpot.contract.step import SourceRows, Step
from pintpot.errors import PintpotError
from pintpot.formats import encoding
from pintpot.formats.columns_apart import separated
from pintpot.formats.tiles import unpack
from pintpot.model.spec import Weight
from pintpot.model.store import Store
from pintpot.packer.manifest import Manifest
from pintpot.packer.raw import WEIGHTS
from pintpot.stream.reader import read_into

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
ReadStrips = Callable[[int, int], Bytes]
"""(first strip, number) -> strips [number, strip bytes]."""
CHUNK_VALUES = 1 << 19


@dataclass(frozen=True)
class Dequantized:
    """A weight in strips; iterating gives (first row, float32 rows [n, K]), indexing single rows."""

    form: WeightForm
    read: ReadStrips

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        per_chunk = max(1, CHUNK_VALUES // (STRIP_ROWS * self.form.shape[1]))
        for first in range(0, self.form.num_strips, per_chunk):
            yield first * STRIP_ROWS, self._rows(first, min(per_chunk, self.form.num_strips - first))

    def __getitem__(self, rows: NDArray[np.integer]) -> Floats:
        """Single rows, each strip read once: [len(rows), K]."""
        wanted = np.asarray(rows)
        out = np.empty((len(wanted), self.form.shape[1]), np.float32)
        for strip in np.unique(wanted // STRIP_ROWS):
            inside = wanted // STRIP_ROWS == strip
            out[inside] = self._rows(int(strip), 1)[wanted[inside] % STRIP_ROWS]
        return out

    @property
    def shape(self) -> tuple[int, ...]:
        return self.form.shape

    def part(self, first: int, stop: int) -> Floats:
        """Rows [first, stop), whole strips, in float32."""
        return self._rows(first // STRIP_ROWS, -(-(stop - first) // STRIP_ROWS))

    def columns_apart(self) -> NDArray[np.int64] | None:
        """The columns that are kept beside the grid; None where all are in it."""
        if encoding(self.form.format).num_apart == 0:
            return None
        rows = min(STRIP_ROWS, self.form.shape[0])
        return separated(self.read(0, 1), self.form.format, rows, self.form.shape[1])[2]

    def _rows(self, first: int, count: int) -> Floats:
        num_rows = min(count * STRIP_ROWS, self.form.shape[0] - first * STRIP_ROWS)
        return unpack(self.read(first, count), self.form.format, num_rows, self.form.shape[1])


def packed_strips(folder: Path, manifest: Manifest, form: WeightForm) -> ReadStrips:
    """Reads the strips of one weight of a pack, wherever they lie."""
    places = tuple(_places(manifest, form))

    def read(first: int, count: int) -> Bytes:
        strips = np.empty((count, form.strip_bytes), np.uint8)
        for offset, start, number in places:
            low, high = max(first, start), min(first + count, start + number)
            if low < high:
                part = strips[low - first : high - first]
                read_into(folder / WEIGHTS, offset + (low - start) * form.strip_bytes, part.reshape(-1).data)
        return strips

    return read


def packed_vector(folder: Path, manifest: Manifest, form: WeightForm) -> Floats:
    """A norm or bias of a pack, float32 [N]."""
    values = np.empty(form.shape[0], np.float32)
    item = next(item for item in manifest.residents if item.name == form.name)
    read_into(folder / WEIGHTS, manifest.resident_offset + item.offset, values.data)
    return values


def converted_strips(store: Store, weight: Weight, form: WeightForm, step: Step) -> ReadStrips:
    """Makes the strips of one weight as a step converts them, whenever they are asked for."""

    def read(first: int, count: int) -> Bytes:
        start = first * STRIP_ROWS
        number = min(count * STRIP_ROWS, form.shape[0] - start)
        rows = SourceRows(form.source, store.read(weight, start, number), form.shape[1])
        strips = step.convert(form, rows)
        if strips is None:
            raise PintpotError(f"{step} does not convert {form.name}")
        return strips

    return read


def _places(manifest: Manifest, form: WeightForm) -> Iterator[tuple[int, int, int]]:
    """(file offset, first strip, number of strips) of every run of a weight's strips, resident ones first."""
    for item in manifest.residents:
        if item.name == form.name:
            for number, first in enumerate(form.runs()[0]):
                run_bytes = form.ram_strips * form.strip_bytes
                yield manifest.resident_offset + item.offset + number * run_bytes, first, form.ram_strips
    for offset, _, slot in manifest.slots:
        for piece in slot.pieces:
            if piece.weight == form.name:
                yield offset + piece.offset, piece.first_strip, piece.num_strips
