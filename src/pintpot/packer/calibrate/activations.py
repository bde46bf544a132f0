"""Activations of all texts while a block is calibrated: in memory, or each in a file of its own where that is short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Activations:
    """Float32 arrays [T, X] by buffer name and text. With a folder they rest in it and not in memory."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: dict[tuple[str, int], Floats] = {}
        self._shapes: dict[tuple[str, int], tuple[int, ...]] = {}

    def put(self, name: str, text: int, values: Floats) -> None:
        if self._folder is None:
            self._kept[name, text] = values
            return
        self._shapes[name, text] = values.shape
        np.ascontiguousarray(values, np.float32).tofile(self._path(name, text))

    def get(self, name: str, text: int) -> Floats:
        if self._folder is None:
            return self._kept[name, text]
        return np.fromfile(self._path(name, text), np.float32).reshape(self._shapes[name, text])

    def drop(self, name: str, text: int) -> None:
        """Forget an array, whether or not it is there."""
        self._kept.pop((name, text), None)
        if self._shapes.pop((name, text), None) is not None:
            self._path(name, text).unlink()

    def _path(self, name: str, text: int) -> Path:
        if self._folder is None:
            raise KeyError(name)
        return self._folder / f"{name}.{text:06d}.f32"
