"""Weights that calibration has rounded, on disk beside the pack that they are for: block by block, each whole or not.

A folder holds, for every block that is done, its bytes (`NAME.bin`) and, written last, what they are (`NAME.json`), and
the states with which the next block begins. A start after a kill goes on behind the last whole block.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import PintpotError, need
from pintpot.packer.checks import crc32c

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
STATES = "states"


class Prepared:
    """What is rounded already. `strips` and `vector` raise KeyError for a weight that is not here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, tuple[Path, int, tuple[int, ...], str]] = {}
        self._blocks: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("*.json")):
            self._read(path)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._places)

    def has(self, block: str) -> bool:
        """Whether a block is done."""
        return block in self._blocks

    def add(self, block: str, weights: Mapping[str, NDArray[Any]], states: Iterable[Floats] = ()) -> None:
        """Keep a block's strips (uint8 [S, strip bytes]) and vectors (float32 [N]), and the states that it leaves."""
        entry: dict[str, Any] = {"weights": {}, "states": self._add_states(block, states)}
        at = 0
        with (self.folder / f"{block}.bin").open("wb") as file:
            for name, values in weights.items():
                entry["weights"][name] = [at, list(values.shape), str(values.dtype)]
                at += values.nbytes
                file.write(np.ascontiguousarray(values).data)
        entry["crc"] = _crc(self.folder / f"{block}.bin")
        written = self.folder / f"{block}.json"
        partial = written.with_suffix(".partial")
        partial.write_text(json.dumps(entry), encoding="utf-8")
        partial.replace(written)
        for path in self.folder.glob(f"*.{STATES}"):
            if path.stem != block:
                path.unlink()
        self._take(block, entry)

    def states(self, block: str, lengths: Sequence[int]) -> Iterator[Floats]:
        """The states [T, D] of each text that a block left. Raises PintpotError where they are gone or damaged."""
        path = self.folder / f"{block}.{STATES}"
        whole = path.exists() and _crc(path) == self._blocks[block]["states"]
        need(whole, f"{path} is damaged or gone", PintpotError)
        width, at = path.stat().st_size // sum(lengths), 0
        for length in lengths:
            found = np.fromfile(path, np.float32, length * width // 4, offset=at)
            at += length * width
            yield found.reshape(length, -1)

    def _add_states(self, block: str, states: Iterable[Floats]) -> int:
        crc = 0
        with (self.folder / f"{block}.{STATES}").open("wb") as file:
            for part in states:
                data = np.ascontiguousarray(part).data
                crc = crc32c(data, crc)
                file.write(data)
        return crc

    def strips(self, name: str, first: int, count: int) -> Bytes:
        """Strips [count, strip bytes] of a matrix, from `first` on."""
        path, offset, shape, _ = self._places[name]
        need(first + count <= shape[0], f"{path} has {shape[0]} strips of {name}", PintpotError)
        found = np.fromfile(path, np.uint8, count * shape[1], offset=offset + first * shape[1])
        return found.reshape(count, shape[1])

    def vector(self, name: str) -> Floats:
        """A vector float32 [N]."""
        path, offset, shape, _ = self._places[name]
        return np.fromfile(path, np.float32, shape[0], offset=offset)

    def _read(self, path: Path) -> None:
        """Take up a block that an earlier start finished, unless it is damaged."""
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            whole = entry["crc"] == _crc(path.with_suffix(".bin"))
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if whole:
            self._take(path.stem, entry)

    def _take(self, block: str, entry: dict[str, Any]) -> None:
        self._blocks[block] = entry
        for name, (offset, shape, kind) in entry["weights"].items():
            self._places[name] = (self.folder / f"{block}.bin", offset, tuple(shape), kind)


def _crc(path: Path) -> int:
    """CRC-32C of a file that was written, which then leaves the memory of the machine."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            crc = crc32c(chunk, crc)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return crc
