"""The bytes of a pack, in file order: each run of rows is read from the source, converted, and handed on at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pintpot.contract.form import LEFT_BYTES, STRIP_ROWS, Form, WeightForm, matches
from pintpot.contract.step import Facet, SourceRows, Step
from pintpot.contract.targets import FIXED_ROLES
from pintpot.errors import PintpotError, need
from pintpot.formats import chunk_rows, is_lossless
from pintpot.model.spec import Model, Weight
from pintpot.model.store import Store
from pintpot.packer.checks import crc32c
from pintpot.packer.sink import Sink
from pintpot.program.fetch import Slot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pintpot.contract.statistics import InputStatistics
    from pintpot.packer.calibrate.prepared import Prepared

    Bytes = NDArray[np.uint8]


class Builder:
    """Converts weights of a model into their promised form, some rows at a time."""

    def __init__(
        self,
        model: Model,
        form: Form,
        steps: tuple[Step, ...],
        store: Store,
        prepared: Prepared | None = None,
        seen: Mapping[str, InputStatistics] | None = None,
    ) -> None:
        """`prepared` has the weights that were rounded before, by what meets them; `seen` what met the others."""
        self._seen, self._roundings = seen or {}, tuple(step for step in steps if step.facet == Facet.ROUNDING)
        self._store, self._prepared = store, prepared
        self._forms = {weight.name: weight for weight in form.weights}
        self._sources: Mapping[str, Weight] = {w.name: w for part in model.parts for w in part.weights()}
        self._steps = tuple(step for step in steps if step.facet == Facet.FORMAT)

    def resident(self, name: str) -> Iterator[Bytes]:
        """What of a weight stays in RAM: its first strips, those of each expert, or a vector as float32."""
        weight = self._forms[name]
        if weight.is_matrix:
            for first in weight.runs()[0]:
                yield from self._strips(weight, first, weight.ram_strips)
        elif len(self._sources[name].shape) == 2:
            yield from self._left(self._sources[name], weight.format)
        else:
            yield self._vector(weight)

    def write_slot(self, sink: Sink, slot: Slot) -> int:
        """Write one slot and return its CRC-32C."""
        data = self.slot(slot).data
        sink.write(data)
        return crc32c(data)

    def slot(self, slot: Slot) -> Bytes:
        """One slot [num_bytes], its padding zero."""
        import numpy as np

        data = np.zeros(slot.num_bytes, np.uint8)
        for piece in slot.pieces:
            at = piece.offset
            for strips in self._strips(self._forms[piece.weight], piece.first_strip, piece.num_strips):
                data[at : at + strips.size] = strips.reshape(-1)
                at += strips.size
        return data

    def _strips(self, weight: WeightForm, first: int, count: int) -> Iterator[Bytes]:
        per_chunk = max(1, chunk_rows(weight.shape[1]) // STRIP_ROWS)
        for start in range(first, first + count, per_chunk):
            stop = min(start + per_chunk, first + count)
            first_row, last_row = start * STRIP_ROWS, min(stop * STRIP_ROWS, weight.shape[0])
            if self._prepared is not None and weight.name in self._prepared.names:
                strips = self._prepared.strips(weight.name, start, stop - start)
            else:
                raw = self._store.read(self._sources[weight.name], first_row, last_row - first_row)
                strips = self._convert(weight, SourceRows(weight.source, raw, weight.shape[1]))
            promised = (stop - start, weight.strip_bytes)
            need(
                strips.shape == promised,
                f"{weight.name}: promised strips of {promised}, the conversion gave {strips.shape}",
                PintpotError,
            )
            yield strips

    def _convert(self, weight: WeightForm, rows: SourceRows) -> Bytes:
        found = self._rounded(weight, rows)
        if found is not None:
            return found
        for step in reversed(self._steps):
            if matches(step.target, weight.name):
                strips = step.convert(weight, rows)
                if strips is not None:
                    return strips
        if weight.role in FIXED_ROLES:
            from pintpot.formats.convert import convert

            return convert(rows.raw, rows.source, weight.format, rows.columns)
        raise PintpotError(f"no step of the plan converts {weight.name}")

    def _rounded(self, weight: WeightForm, rows: SourceRows) -> Bytes | None:
        """Rows rounded by what met the weight; None where no step does, or nothing is known to have met it."""
        inputs = self._seen.get(weight.name)
        if inputs is None or is_lossless(weight.source, weight.format):
            return None
        from pintpot.formats.source import decode

        for step in reversed(self._roundings):
            if matches(step.target, weight.name):
                values = decode(rows.raw, rows.source, rows.columns)
                return step.round(weight, values.astype("float32", copy=False), inputs)
        return None

    def _left(self, weight: Weight, kept: str) -> Iterator[Bytes]:
        """A matrix that is left as plain values, some rows at a time; whole words in all."""
        import numpy as np

        from pintpot.formats.source import decode
        from pintpot.formats.tiles import narrow

        rows, columns = weight.shape
        per_chunk = chunk_rows(columns)
        for first in range(0, rows, per_chunk):
            raw = self._store.read(weight, first, min(per_chunk, rows - first))
            values = decode(raw, weight.dtype, columns).astype(np.float32).reshape(-1)
            yield narrow(values, kept).view(np.uint8)
        yield np.zeros(-rows * columns * LEFT_BYTES[kept] % 4, np.uint8)

    def _vector(self, weight: WeightForm) -> Bytes:
        import numpy as np

        if self._prepared is not None and weight.name in self._prepared.names:
            return self._prepared.vector(weight.name).view(np.uint8)
        return self._store.vector(weight.name).view(np.uint8)
