"""The weights of a pack, strips in row order: every run of the file is verified before anything of it is used."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import defaultdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pintpot.contract.form import WeightForm
from pintpot.errors import BadPack, need
from pintpot.packer.checks import crc32c
from pintpot.packer.manifest import Manifest
from pintpot.packer.raw import CHECK_BYTES, WEIGHTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

_MOST_RUN_BYTES = 1 << 30
"""A slot is read whole to be verified; no plan makes one of more than a few MB."""


class PackedWeights:
    """Reads the weights of a locked pack. A context manager; holds one run of the file in memory, and no more.

    Raises BadPack for a file of another size than the manifest says, and for a run that was changed after packing.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._path = folder / WEIGHTS
        self._runs = _runs(manifest)
        self._starts = [start for start, _, _ in self._runs]
        self._places = _places(manifest)
        self._run, self._data = -1, b""
        try:
            self._handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BadPack(f"cannot open {self._path}: {error.strerror}") from error
        size = os.fstat(self._handle).st_size
        if size != manifest.file_bytes:
            os.close(self._handle)
            raise BadPack(f"{self._path} has {size} bytes, the manifest says {manifest.file_bytes}")

    def __enter__(self) -> PackedWeights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)

    def strips(self, weight: WeightForm, first: int, count: int) -> Bytes:
        """Strips `first` to `first + count - 1` of a matrix, uint8 [count, strip_bytes]."""
        import numpy as np

        out = np.empty((count, weight.strip_bytes), np.uint8)
        flat = out.reshape(-1).data
        for begin, number, offset in self._places[weight.name]:
            start, stop = max(first, begin), min(first + count, begin + number)
            if start < stop:
                at = (start - first) * weight.strip_bytes
                length = (stop - start) * weight.strip_bytes
                self._fill(flat[at : at + length], offset + (start - begin) * weight.strip_bytes)
        return out

    def vector(self, weight: WeightForm) -> NDArray[np.float32]:
        """A norm or a bias, float32 [N]."""
        import numpy as np

        out = np.empty(weight.shape[0], np.float32)
        self._fill(out.view(np.uint8).data, self._places[weight.name][0][2])
        return out

    def _fill(self, target: memoryview, offset: int) -> None:
        done = 0
        while done < len(target):
            run = bisect_right(self._starts, offset + done) - 1
            inside = offset + done - self._starts[run]
            part = memoryview(self._verified(run))[inside : inside + len(target) - done]
            target[done : done + len(part)] = part
            done += len(part)

    def _verified(self, run: int) -> bytes:
        if run != self._run:
            start, length, crc = self._runs[run]
            need(length <= _MOST_RUN_BYTES, f"{self._path} has a slot of {length} bytes", BadPack)
            try:
                data = os.pread(self._handle, length, start)
                os.posix_fadvise(self._handle, start, length, os.POSIX_FADV_DONTNEED)
            except OSError as error:
                raise BadPack(f"cannot read {self._path}: {error.strerror}") from error
            whole = len(data) == length and crc32c(data) == crc
            need(whole, f"{self._path}: bytes {start} to {start + length} were changed after packing", BadPack)
            self._run, self._data = run, data
        return self._data


def _runs(manifest: Manifest) -> list[tuple[int, int, int]]:
    """Offset, bytes and CRC-32C of all runs in file order: those of the resident region, then the slots."""
    start, end = manifest.resident_offset, manifest.resident_offset + manifest.resident_bytes
    firsts = range(start, end, CHECK_BYTES)
    resident = zip(firsts, manifest.resident_crcs, strict=True)
    runs = [(first, min(CHECK_BYTES, end - first), crc) for first, crc in resident]
    return runs + [(offset, slot.num_bytes, crc) for offset, crc, slot in manifest.slots]


def _places(manifest: Manifest) -> dict[str, list[tuple[int, int, int]]]:
    """Of every weight where its strips lie: first strip, number, offset in the file."""
    weights = manifest.plan.form.weights.by_name
    places: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for item in manifest.residents:
        weight, at = weights[item.name], manifest.resident_offset + item.offset
        run_bytes = weight.ram_strips * weight.strip_bytes if weight.is_matrix else 0
        places[item.name] += [
            (first, weight.ram_strips, at + number * run_bytes) for number, first in enumerate(weight.runs()[0])
        ]
    for offset, _, slot in manifest.slots:
        for piece in slot.pieces:
            places[piece.weight].append((piece.first_strip, piece.num_strips, offset + piece.offset))
    return places
