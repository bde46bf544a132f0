"""Blocks of every source encoding against the `gguf` package's own dequantization, bit for bit."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pintpot.errors import BadInput
from pintpot.formats import SOURCE_FORMATS, encoding
from pintpot.formats.source import decode


@functools.cache
def tensors_of(path: Path) -> list[Any]:
    """The tensors of a GGUF file, as `gguf` reads them."""
    return list(gguf.GGUFReader(path).tensors)


def random_rows(name: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, encoding(name).row_bytes(columns)), dtype=np.uint8)


def theirs(raw: np.ndarray, name: str, columns: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        values = gguf.dequantize(raw, gguf.GGMLQuantizationType[name.upper()])
    return np.ascontiguousarray(values.astype(np.float32)).reshape(len(raw), columns)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal in every bit, except that any NaN equals any NaN."""
    equal = left.view(np.uint32) == right.view(np.uint32)
    return bool((equal | (np.isnan(left) & np.isnan(right))).all())


@pytest.mark.parametrize("name", SOURCE_FORMATS)
@pytest.mark.parametrize("rows", [1, 17, 600])
def test_any_bytes_decode_as_in_gguf(name: str, rows: int) -> None:
    raw = random_rows(name, rows, 1024)
    assert same_bits(decode(raw, name, 1024), theirs(raw, name, 1024))


@pytest.mark.parametrize("name", SOURCE_FORMATS)
def test_a_slice_of_wider_rows_decodes_into_a_given_array(name: str) -> None:
    raw = random_rows(name, 5, 512)
    wide = np.concatenate([raw, raw], axis=1)[:, : raw.shape[1]]
    out = np.full((5, 512), np.nan, np.float32)
    assert decode(wide, name, 512, out) is out
    assert same_bits(out, theirs(raw, name, 512))


def test_the_real_model_decodes_as_in_gguf(smollm2: Path) -> None:
    tensors = [tensor for tensor in tensors_of(smollm2) if len(tensor.shape) == 2][:8]
    assert {tensor.tensor_type.name for tensor in tensors} == {"Q8_0", "Q4_1"}
    for tensor in tensors:
        columns, name = int(tensor.shape[0]), tensor.tensor_type.name.lower()
        raw = np.asarray(tensor.data)[:2000]
        assert same_bits(decode(raw, name, columns), theirs(raw, name, columns))


def test_rows_of_another_size_are_refused() -> None:
    with pytest.raises(BadInput, match="rows of 36 bytes, not uint8"):
        decode(np.zeros((2, 35), np.uint8), "q4_0", 64)
    with pytest.raises(BadInput, match="no model file holds sym4"):
        decode(np.zeros((2, 36), np.uint8), "sym4", 64)
    with pytest.raises(BadInput, match="output is contiguous"):
        decode(np.zeros((2, 36), np.uint8), "q4_0", 64, np.zeros((64, 2), np.float32).T)
