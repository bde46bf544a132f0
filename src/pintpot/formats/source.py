"""Blocks of GGUF and safetensors files -> float32, bit for bit as ggml's own arithmetic gives them.

Each decoder takes blocks uint8 [n, block_bytes] and fills float32 [n, block_columns]. The block layouts are those of
ggml's `ggml-common.h`; every product and sum keeps its order there, because float rounding depends on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import need
from pintpot.formats.registry import encoding
from pintpot.formats.working import chunk_rows

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


def decode(raw: Bytes, source: str, columns: int, out: Floats | None = None) -> Floats:
    """Rows of blocks, uint8 [rows, row_bytes], as float32 [rows, columns].

    Values that are not finite come out as they were written. Raises UnsupportedModel for an encoding that no file
    holds and BadInput when `raw` is not rows of `columns` values of it.
    """
    need_rows(raw, source, columns)
    found = encoding(source)
    result = np.empty((len(raw), columns), np.float32) if out is None else out
    fits = result.shape == (len(raw), columns) and result.flags.c_contiguous
    need(fits, f"output is contiguous {(len(raw), columns)}, not {result.shape}")
    step = chunk_rows(columns)
    decoder = _DECODERS[source]
    with np.errstate(all="ignore"):
        for start in range(0, len(raw), step):
            rows = np.ascontiguousarray(raw[start : start + step])
            target = result[start : start + step]
            decoder(rows.reshape(-1, found.block_bytes), target.reshape(-1, found.block_columns))
    return result


def need_rows(raw: Bytes, source: str, columns: int) -> None:
    """Raise BadInput unless `raw` is rows of `columns` values in an encoding that files hold."""
    found = encoding(source)
    need(found.is_source, f"no model file holds {source}")
    expected = found.row_bytes(columns)
    fits = raw.ndim == 2 and raw.shape[1] == expected and raw.dtype == np.uint8
    need(fits, f"{columns} columns of {source} take uint8 rows of {expected} bytes, not {raw.dtype} {raw.shape}")


def _half(blocks: Bytes, offset: int) -> Floats:
    """The float16 at a byte offset of every block, as float32 [n, 1]."""
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.float16).astype(np.float32)


def _f32(blocks: Bytes, out: Floats) -> None:
    out[...] = blocks.view(np.float32)


def _f16(blocks: Bytes, out: Floats) -> None:
    out[...] = blocks.view(np.float16)


def _bf16(blocks: Bytes, out: Floats) -> None:
    np.left_shift(blocks.view(np.uint16), np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)


def _nibbles(packed: Bytes, half: int) -> Bytes:
    """Low nibbles of `half` bytes and then their high nibbles, for every run of `half` bytes: [n, 2 * packed]."""
    runs = packed.reshape(len(packed), -1, half)
    codes = np.empty((*runs.shape[:2], 2, half), np.uint8)
    np.bitwise_and(runs, 15, out=codes[:, :, 0])
    np.right_shift(runs, 4, out=codes[:, :, 1])
    return codes.reshape(len(packed), -1)


def _five_bits(packed: Bytes, high: Bytes) -> Bytes:
    codes = _nibbles(packed, 16)
    bits = np.unpackbits(high, axis=1, bitorder="little")
    bits <<= 4
    codes |= bits
    return codes


def _centred(codes: Bytes, zero: int, out: Floats) -> None:
    """out = codes - zero, exact."""
    out[...] = codes
    out -= np.float32(zero)


def _q4_0(blocks: Bytes, out: Floats) -> None:
    _centred(_nibbles(blocks[:, 2:], 16), 8, out)
    out *= _half(blocks, 0)


def _q4_1(blocks: Bytes, out: Floats) -> None:
    out[...] = _nibbles(blocks[:, 4:], 16)
    out *= _half(blocks, 0)
    out += _half(blocks, 2)


def _q5_0(blocks: Bytes, out: Floats) -> None:
    _centred(_five_bits(blocks[:, 6:], blocks[:, 2:6]), 16, out)
    out *= _half(blocks, 0)


def _q5_1(blocks: Bytes, out: Floats) -> None:
    out[...] = _five_bits(blocks[:, 8:], blocks[:, 4:8])
    out *= _half(blocks, 0)
    out += _half(blocks, 2)


def _q8_0(blocks: Bytes, out: Floats) -> None:
    out[...] = blocks[:, 2:].view(np.int8)
    out *= _half(blocks, 0)


def _pairs(packed: Bytes) -> Bytes:
    """2-bit codes of runs of 32 bytes: the four fields of a run follow each other, 128 columns per run."""
    runs = packed.reshape(len(packed), -1, 1, 32)
    codes = runs >> np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    codes &= 3
    return codes.reshape(len(packed), -1)


def _q2_k(blocks: Bytes, out: Floats) -> None:
    scales = blocks[:, :16]
    step = _half(blocks, 80) * (scales & 15)
    offset = _half(blocks, 82) * (scales >> 4)
    values = out.reshape(len(blocks), 16, 16)
    values[...] = _pairs(blocks[:, 16:80]).reshape(values.shape)
    values *= step[:, :, None]
    values -= offset[:, :, None]


def _q3_k_scales(packed: Bytes) -> NDArray[np.int8]:
    """Sixteen signed 6-bit scales of 12 bytes: low nibbles in 8 bytes, two high bits each in the other 4."""
    scales = np.empty((len(packed), 16), np.uint8)
    scales[:, :8] = packed[:, :8] & 15
    scales[:, 8:] = packed[:, :8] >> 4
    for field in range(4):
        scales[:, 4 * field : 4 * field + 4] |= (packed[:, 8:] >> (2 * field) & 3) << 4
    return scales.view(np.int8) - np.int8(32)


def _q3_k(blocks: Bytes, out: Floats) -> None:
    missing = ~blocks[:, None, :32] >> np.arange(8, dtype=np.uint8).reshape(8, 1)
    missing &= 1
    missing <<= 2
    codes = _pairs(blocks[:, 32:96]).view(np.int8)
    codes -= missing.reshape(codes.shape).view(np.int8)
    values = out.reshape(len(blocks), 16, 16)
    values[...] = codes.reshape(values.shape)
    values *= (_half(blocks, 108) * _q3_k_scales(blocks[:, 96:108]))[:, :, None]


def six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight scales and eight minima of 6 bits that Q4_K and Q5_K write in 12 bytes: two uint8 [n, 8]."""
    low, high, mixed = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (mixed & 15) | (low >> 2 & 48)], axis=1)
    minima = np.concatenate([high & 63, mixed >> 4 | (high >> 2 & 48)], axis=1)
    return scales, minima


def _scaled_groups(blocks: Bytes, codes: Bytes, out: Floats) -> None:
    scales, minima = six_bit_scales(blocks[:, 4:16])
    values = out.reshape(len(blocks), 8, 32)
    values[...] = codes.reshape(values.shape)
    values *= (_half(blocks, 0) * scales)[:, :, None]
    values -= (_half(blocks, 2) * minima)[:, :, None]


def _q4_k(blocks: Bytes, out: Floats) -> None:
    _scaled_groups(blocks, _nibbles(blocks[:, 16:], 32), out)


def _q5_k(blocks: Bytes, out: Floats) -> None:
    high = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8).reshape(8, 1)
    high &= 1
    high <<= 4
    codes = _nibbles(blocks[:, 48:], 32)
    codes |= high.reshape(codes.shape)
    _scaled_groups(blocks, codes, out)


def _q6_k(blocks: Bytes, out: Floats) -> None:
    codes = _nibbles(blocks[:, :128], 64)
    codes |= _pairs(blocks[:, 128:192]) << 4
    _centred(codes, 32, out)
    values = out.reshape(len(blocks), 16, 16)
    values *= (_half(blocks, 208) * blocks[:, 192:208].view(np.int8))[:, :, None]


_DECODERS: dict[str, Callable[[Bytes, Floats], None]] = {
    "f32": _f32,
    "f16": _f16,
    "bf16": _bf16,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
    "q2_k": _q2_k,
    "q3_k": _q3_k,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
}
