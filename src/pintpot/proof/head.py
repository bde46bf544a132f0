"""The output head of a pack, some rows at a time: the words' logits as the packed model's own kernels give them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pintpot._native import kernels
from pintpot.contract.form import STRIP_ROWS
from pintpot.formats import encoding
from pintpot.packer.manifest import Manifest
from pintpot.program.ops.linear import PLANES
from pintpot.proof.strips import packed_strips, packed_vector

Floats = NDArray[np.float32]
CHUNK_BYTES = 1 << 20
MOST_LOGITS = 1 << 18


class PackedHead:
    """Logits of states [T, D], which come before the final norm, for one run of words after the other."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        weights = manifest.plan.form.weights.by_name
        self._form = weights.get("head", weights["embed"])
        self._isa = kernels.chosen()

    def logits(self, states: Floats) -> Iterator[tuple[int, Floats]]:
        """(first word, logits [T, n]) for all words, in order of the file's rows."""
        normed = self._normed(states)
        float_format = encoding(self._form.format).kind == "float"
        planes = 0 if float_format else PLANES[self._manifest.plan.form.activation.decode]
        quantized = self._quantized(normed, planes) if planes else None
        most = max(1, MOST_LOGITS // (STRIP_ROWS * len(states)))
        for first_strip, strips in self._strips(most):
            first = first_strip * STRIP_ROWS
            count = min(len(strips) * STRIP_ROWS, self._form.shape[0] - first)
            out = np.empty((len(states), count), np.float32)
            kernels.strips(
                self._isa,
                self._form.format,
                strips.reshape(-1),
                self._form.shape[1],
                None if planes else normed,
                quantized,
                planes or 1,
                out,
            )
            yield first, out

    def _normed(self, states: Floats) -> Floats:
        weight = packed_vector(self._folder, self._manifest, self._manifest.plan.form.weights.by_name["norm"])
        normed = np.empty_like(states)
        eps = self._manifest.plan.config["rms_norm_eps"]
        for row in range(len(states)):
            kernels.rmsnorm(self._isa, states[row], weight, eps, normed[row])
        return normed

    def _quantized(self, normed: Floats, planes: int) -> NDArray[np.uint8]:
        size = kernels.quantized_bytes(normed.shape[1], planes) * len(normed)
        out = np.empty(size, np.uint8)
        kernels.quantize(self._isa, normed, planes, 0, len(normed), out)
        return out

    def _strips(self, most: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """(first strip, strips [n, strip bytes]) of the whole head, at most so many at a time."""
        read = packed_strips(self._folder, self._manifest, self._form)
        per_chunk = min(most, max(1, CHUNK_BYTES // self._form.strip_bytes))
        for first in range(0, self._form.num_strips, per_chunk):
            yield first, read(first, min(per_chunk, self._form.num_strips - first))
