"""Strips: the layout read one value at a time, packers against it, and permutations that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from test_formats_source import random_rows, same_bits

from pintpot.errors import BadInput
from pintpot.formats import KERNEL_FORMATS, SOURCE_FORMATS, encoding, num_strips
from pintpot.formats.permute import repack
from pintpot.formats.source import decode
from pintpot.formats.tiles import Codes, pack_codes, pack_floats, unpack

LOSSLESS = [name for name in SOURCE_FORMATS if encoding(name).lossless]
GROUPED = [name for name in KERNEL_FORMATS if encoding(name).kind in ("sym", "aff")]
SPLITS = {8: [8], 6: [4, 2], 5: [4, 1], 4: [4], 3: [2, 1], 2: [2]}


def code_at(planes: np.ndarray, bits: int, row: int, column: int) -> int:
    """The code of one value in the planes of its group of 32, as docs/layout.md tells it."""
    code, start, low = 0, 0, 0
    quad, i = divmod(column, 4)
    for width in SPLITS[bits]:
        field, vector = divmod(quad, width)
        byte = int(planes[start + 64 * vector + row * 4 + i])
        code |= (byte >> (field * width) & ((1 << width) - 1)) << low
        start, low = start + 64 * width, low + width
    return code


def half_at(scales: np.ndarray, offset: int) -> np.float32:
    return np.float32(scales[offset : offset + 2].view(np.float16)[0])


def q4_k_scale(scales: np.ndarray, row: int, group: int) -> tuple[np.float32, np.float32]:
    packed = [int(scales[64 + 16 * index + row]) for index in range(12)]
    if group < 4:
        return np.float32(packed[group] & 63), np.float32(packed[group + 4] & 63)
    mixed = packed[group + 4]
    step = (mixed & 15) | (packed[group - 4] >> 6) << 4
    return np.float32(step), np.float32(mixed >> 4 | (packed[group] >> 6) << 4)


def value_at(strip: np.ndarray, name: str, columns: int, row: int, column: int) -> np.float32:
    """One value of a strip, in plain Python."""
    found = encoding(name)
    if found.kind == "float":
        word = strip[(column * 16 + row) * found.block_bytes :][: found.block_bytes]
        if name == "bf16":
            return (word.view(np.uint16).astype(np.uint32) << 16).view(np.float32)[0]
        return np.float32(word.view(np.float32 if name == "f32" else np.float16)[0])
    group, inside = divmod(column, found.group_columns)
    scales = strip[group * found.group_scale_bytes :][: found.group_scale_bytes]
    planes = strip[found.scale_bytes(columns) :].reshape(-1, 64 * found.code_bits)[column // 32]
    code = code_at(planes, found.code_bits, row, column % 32)
    d = half_at(scales, 2 * row)
    if name == "q4_k":
        step, minimum = q4_k_scale(scales, row, inside // 32)
        return d * step * np.float32(code) - half_at(scales, 32 + 2 * row) * minimum
    if name == "q6_k":
        step = np.float32(scales[32 + 16 * (inside // 16) + row].view(np.int8))
        return d * step * np.float32(code - 32)
    if found.kind == "sym":
        return d * np.float32(code - (1 << (found.code_bits - 1)))
    return d * np.float32(code) + half_at(scales, 32 + 2 * row)


def random_codes(name: str, rows: int, columns: int, seed: int = 0) -> Codes:
    found, rng = encoding(name), np.random.default_rng(seed)
    groups = found.num_groups(columns)
    codes = rng.integers(0, 1 << found.code_bits, (rows, groups * 32), dtype=np.uint8)
    codes[:, columns:] = 1 << (found.code_bits - 1) if found.kind == "sym" else 0
    d, m = rng.standard_normal((2, rows, groups)).astype(np.float16)
    return Codes(codes, d, m if found.kind == "aff" else None)


@pytest.mark.parametrize("name", KERNEL_FORMATS)
def test_unpack_reads_what_the_layout_says(name: str) -> None:
    rows, columns = 20, 512 if name.endswith("_k") else 100
    shape = (num_strips(rows), encoding(name).strip_bytes(columns))
    strips = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    values = unpack(strips, name, rows, columns)
    with np.errstate(all="ignore"):
        expected = [
            [value_at(strips[row // 16], name, columns, row % 16, column) for column in range(columns)]
            for row in range(rows)
        ]
    assert same_bits(values, np.array(expected, np.float32))


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (16, 768), (37, 512), (300, 1024)])
def test_repacking_changes_no_bit_of_a_value(name: str, rows: int, columns: int) -> None:
    raw = random_rows(name, rows, columns)
    found = encoding(encoding(name).packed_as)
    out = np.full((num_strips(rows), found.strip_bytes(columns)), 0xAA, np.uint8)
    assert repack(raw, name, columns, out) is out
    assert same_bits(unpack(out, found.name, rows, columns), decode(raw, name, columns))
    assert np.array_equal(out, repack(raw, name, columns))


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (16, 32), (37, 100), (150, 1056)])
def test_packed_codes_come_back(name: str, rows: int, columns: int) -> None:
    source = random_codes(name, rows, columns)
    found = encoding(name)
    out = np.full((num_strips(rows), found.strip_bytes(columns)), 0xAA, np.uint8)
    pack_codes(source, name, columns, out)
    q = source.codes.reshape(rows, -1, 32).astype(np.float32)
    d = source.d.astype(np.float32)[..., None]
    if source.m is None:
        expected = d * (q - np.float32(1 << (found.code_bits - 1)))
    else:
        expected = d * q + source.m.astype(np.float32)[..., None]
    assert same_bits(unpack(out, name, rows, columns), np.ascontiguousarray(expected.reshape(rows, -1)[:, :columns]))
    assert np.array_equal(out, pack_codes(source, name, columns))


@pytest.mark.parametrize("name", GROUPED)
def test_padding_is_as_the_layout_says(name: str) -> None:
    found = encoding(name)
    strips = pack_codes(random_codes(name, 5, 40), name, 40)
    planes = strips[0, found.scale_bytes(40) :].reshape(2, -1)
    zero = 1 << (found.code_bits - 1) if found.kind == "sym" else 0
    assert {code_at(planes[1], found.code_bits, row, column) for row in range(16) for column in range(8, 32)} == {zero}
    halves = strips[0, : 2 * found.group_scale_bytes].view(np.uint16).reshape(-1, 16)
    assert not halves[:, 5:].any()
    assert halves[:, :5].all()
    assert not strips[0, 2 * found.group_scale_bytes : found.scale_bytes(40)].any()


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (16, 4), (37, 101), (300, 1000)])
def test_floats_round_to_the_nearest(name: str, rows: int, columns: int) -> None:
    import torch

    values = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[name]
    expected = torch.from_numpy(values).to(dtype).float().numpy()
    strips = pack_floats(values, name)
    assert same_bits(unpack(strips, name, rows, columns), expected)
    area = strips.view({2: np.uint16, 4: np.uint32}[encoding(name).block_bytes]).reshape(len(strips), -1, 16)
    assert not area[:, columns:].any()


def test_floats_that_do_not_fit_are_counted() -> None:
    values = np.array([[1.0, 7e4, -1e5, 65504.0]], np.float32)
    with pytest.raises(BadInput, match="2 of 4 weights are too large for f16"):
        pack_floats(values, "f16")
    with pytest.raises(BadInput, match="1 of 2 weights are too large for bf16"):
        pack_floats(np.array([[3.4e38, np.inf]], np.float32), "bf16")


def test_what_does_not_belong_together_is_refused() -> None:
    codes = random_codes("sym4", 16, 64)
    with pytest.raises(BadInput, match="minimum"):
        pack_codes(codes, "aff4", 64)
    with pytest.raises(BadInput, match="groups a row"):
        pack_codes(codes, "sym4", 96)
    with pytest.raises(BadInput, match="not q4_k"):
        pack_codes(codes, "q4_k", 64)
    with pytest.raises(BadInput, match="not sym4"):
        pack_floats(np.zeros((2, 4), np.float32), "sym4")
    with pytest.raises(BadInput, match=r"contiguous uint8 \(1, 576\)"):
        unpack(np.zeros((1, 300), np.uint8), "sym4", 16, 64)
    with pytest.raises(BadInput, match="q5_k has no lossless"):
        repack(random_rows("q5_k", 2, 256), "q5_k", 256)
