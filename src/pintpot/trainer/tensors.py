"""Tensors to and from a safetensors file one after the other, so that no second copy of all of them is in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import torch

from pintpot.errors import BadFile, need
from pintpot.model.safetensors import parse_safetensors
from pintpot.model.source import LocalFile

_NAMES = {torch.float32: "F32", torch.uint8: "U8", torch.int64: "I64"}


@dataclass(frozen=True)
class Entry:
    """A float32, uint8 or int64 tensor of a file: `parts` gives its values in order, some rows at a time."""

    name: str
    shape: tuple[int, ...]
    parts: Callable[[], Iterable[torch.Tensor]]
    dtype: torch.dtype = torch.float32


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    turned: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, value: value,
) -> None:
    """float32 and uint8 tensors, in the order of their names; `turned` makes of each what is written, of its shape."""

    def parts(name: str) -> Iterator[torch.Tensor]:
        yield turned(name, tensors[name])

    entries = [Entry(name, tuple(one.shape), partial(parts, name), one.dtype) for name, one in tensors.items()]
    write_entries(path, entries, metadata)


def write_entries(path: Path, entries: Sequence[Entry], metadata: Mapping[str, str] | None = None) -> None:
    """The same of tensors that are nowhere whole."""
    ordered = sorted(entries, key=lambda one: (-one.dtype.itemsize, one.name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for one in ordered:
        first, end = end, end + prod(one.shape) * one.dtype.itemsize
        header[one.name] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [first, end]}
    told = json.dumps(header).encode("utf-8")
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for one in ordered:
            for part in one.parts():
                file.write(part.detach().contiguous().numpy().data)
                del part  # before the next one is made


def read_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill contiguous tensors from a file. Raises BadFile where it has not each, BadInput where it cannot be read."""
    found = {one.name: one for one in parse_safetensors(LocalFile(path))}
    with path.open("rb", buffering=0) as file:
        for name, own in tensors.items():
            one = found.get(name)
            fits = one is not None and (one.shape, one.dtype.upper()) == (tuple(own.shape), _NAMES[own.dtype])
            need(fits, f"{path.name} has no {name} of shape {list(own.shape)}", BadFile)
            rest = own.detach().view(-1).numpy().data.cast("B")
            file.seek(one.offset if one else 0)
            while rest:
                count = file.readinto(rest)
                need(count > 0, f"{path.name} ends within {name}", BadFile)
                rest = rest[count:]
