"""The two containers, written from their beginning to their end: a GGUF file, and safetensors files with an index."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pintpot.model.gguf_write import GgufTensor, aligned, header
from pintpot.packer.export.exported import Tally
from pintpot.packer.export.strips import PackedWeights
from pintpot.packer.export.tensor import Tensor, data_of
from pintpot.packer.sink import Sink

SHARD_BYTES = 5_000_000_000
"""A larger model comes in several files, as Hugging Face has them."""
_INDEX = "model.safetensors.index.json"
Progress = Callable[[float], None]


class Writing:
    """What one export writes, and how far it is; what was rounded is in `tally`."""

    def __init__(self, weights: PackedWeights, tensors: Sequence[Tensor], progress: Progress) -> None:
        self.tally = Tally()
        self._weights, self._tensors, self._progress = weights, tensors, progress
        self._total, self._done = max(1, data_bytes(tensors)), 0

    def gguf(self, path: Path, pairs: Sequence[bytes]) -> None:
        """One GGUF file with this metadata."""
        table = [GgufTensor(tensor.name, tensor.shape, tensor.dtype) for tensor in self._tensors]
        start = header(pairs, table)
        with Sink(path, len(start) + data_bytes(self._tensors), None) as sink:
            sink.write(start)
            for tensor in self._tensors:
                self._write(tensor, sink)
                sink.pad_to(aligned(sink.position))

    def safetensors(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        """model.safetensors, or several files of at most `shard_bytes` of data (one tensor at least), and an index."""
        shards = _shards(self._tensors, shard_bytes)
        single = len(shards) == 1
        places: dict[str, str] = {}
        for number, shard in enumerate(shards):
            name = "model.safetensors" if single else f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
            start = _safetensors_header(shard)
            with Sink(folder / name, len(start) + sum(tensor.num_bytes for tensor in shard), None) as sink:
                sink.write(start)
                for tensor in shard:
                    self._write(tensor, sink)
            places.update({tensor.name: name for tensor in shard})
        if not single:
            total = sum(tensor.num_bytes for tensor in self._tensors)
            write_text(folder / _INDEX, json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=1))

    def _write(self, tensor: Tensor, sink: Sink) -> None:
        for part in data_of(tensor, self._weights, self.tally.of(tensor)):
            sink.write(part.data)
            self._done += part.nbytes
            self._progress(min(1.0, self._done / self._total))


def data_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of all tensors, padded as GGUF pads them."""
    return sum(aligned(tensor.num_bytes) for tensor in tensors)


def write_text(path: Path, text: str) -> None:
    """A small file, on the disk when this returns."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _shards(tensors: Sequence[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    used = 0
    for tensor in tensors:
        if shards[-1] and used + tensor.num_bytes > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.num_bytes
    return shards


def _safetensors_header(tensors: Sequence[Tensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        end = at + tensor.num_bytes
        entries[tensor.name] = {"dtype": tensor.dtype.upper(), "shape": tensor.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    padded = text.ljust(-(-len(text) // 8) * 8)
    return len(padded).to_bytes(8, "little") + padded
