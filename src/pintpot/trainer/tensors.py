"""Tensors written as a safetensors file one after the other, so that no second copy of all of them is in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

_NAMES = {torch.float32: "F32", torch.uint8: "U8"}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """float32 and uint8 tensors in the order of their names, each contiguous where it is written."""
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
            file.write(tensors[name].detach().contiguous().numpy().data)
