"""Tensors to and from a safetensors file one after the other, so that no second copy of all of them is in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pintpot.errors import BadFile, need
from pintpot.model.safetensors import parse_safetensors
from pintpot.model.source import LocalFile

_NAMES = {torch.float32: "F32", torch.uint8: "U8"}


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    turned: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, value: value,
) -> None:
    """float32 and uint8 tensors, in the order of their names; `turned` makes of each what is written, of its shape."""
    names = sorted(tensors, key=lambda name: (tensors[name].dtype != torch.float32, name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        one = tensors[name]
        first, end = end, end + one.numel() * one.element_size()
        header[name] = {"dtype": _NAMES[one.dtype], "shape": list(one.shape), "data_offsets": [first, end]}
    told = json.dumps(header).encode("utf-8")
    told += b" " * (-len(told) % 8)
    with path.open("wb") as file:
        file.write(len(told).to_bytes(8, "little") + told)
        for name in names:
            file.write(turned(name, tensors[name]).detach().contiguous().numpy().data)


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
