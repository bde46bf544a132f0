"""GGUF headers from metadata and a tensor table: what `pintpot.model.gguf` reads, version 3, little-endian.

Written here and not by the package `gguf`: a header is a few lines, its data then stream past the page cache some rows
at a time, and nothing else has to be installed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

from pintpot.errors import BadInput, need
from pintpot.formats import encoding
from pintpot.model.gguf import MAGIC

ALIGNMENT: Final = 32
_VERSION = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_ONLY_WRITTEN: Final = {"mxfp4": 39}
"""GGUF's numbers of types that are not read here."""
_FEWEST, _MOST = -(2**31), 2**32 - 1

Scalar = str | bool | int | float
Value = Scalar | Sequence[str] | Sequence[int] | Sequence[float]


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A line of the tensor table: `shape` ends with rows and columns or is one axis, `dtype` is one GGUF numbers."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        return prod(self.shape[:-1]) * encoding(self.dtype).row_bytes(self.shape[-1])


def pair(key: str, value: Value) -> bytes:
    """One pair of the metadata: texts, truth values, numbers as uint32 or float32; lists of texts, int32, float32.

    Raises BadInput for a number of more than 32 bits.
    """
    if isinstance(value, str | bool | int | float):
        return _text(key) + _scalar(value, key)
    kind, items = _items(value, key)
    return _text(key) + struct.pack("<IIQ", _ARRAY, kind, len(value)) + items


def header(pairs: Sequence[bytes], tensors: Sequence[GgufTensor] = ()) -> bytes:
    """All of a file before its data, whose tensors follow in this order, each padded to `ALIGNMENT`."""
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(pairs)), *pairs]
    offset = 0
    for tensor in tensors:
        number = _ONLY_WRITTEN.get(tensor.dtype, encoding(tensor.dtype).ggml_type)
        need(number is not None, f"GGUF has no type for {tensor.dtype} ({tensor.name})")
        axes = tensor.shape[::-1]
        parts.append(_text(tensor.name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, number, offset))
        offset += aligned(tensor.num_bytes)
    text = b"".join(parts)
    return text.ljust(aligned(len(text)), b"\0")


def aligned(num_bytes: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def _scalar(value: Scalar, key: str) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", _BOOL, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    _need_numbers([value], key, 0, _MOST)
    return struct.pack("<II", _UINT32, value)


def _items(values: Sequence[str] | Sequence[int] | Sequence[float], key: str) -> tuple[int, bytes]:
    texts = [value for value in values if isinstance(value, str)]
    if texts:
        return _STRING, b"".join(map(_text, texts))
    numbers = [value for value in values if not isinstance(value, str)]
    if all(type(value) is int for value in numbers):
        _need_numbers(numbers, key, _FEWEST, -_FEWEST - 1)
        return _INT32, struct.pack(f"<{len(numbers)}i", *numbers)
    return _FLOAT32, struct.pack(f"<{len(numbers)}f", *numbers)


def _need_numbers(values: Iterable[float], key: str, least: int, most: int) -> None:
    wrong = next((value for value in values if not least <= value <= most), None)
    need(wrong is None, f"{key} is {wrong!r:.60}, which GGUF does not hold in 32 bits", BadInput)
