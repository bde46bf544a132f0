"""Strips: the layout read one value at a time, packers against it, and permutations that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from test_formats_source import random_rows, same_bits
from two_of_four import draw_kept

from pintpot.errors import BadInput
from pintpot.formats import KERNEL_FORMATS, SOURCE_FORMATS, encoding, num_strips
from pintpot.formats.permute import repack
from pintpot.formats.source import decode
from pintpot.formats.tiles import Codes, pack_codes, pack_floats, unpack, zero_code

LOSSLESS = [name for name in SOURCE_FORMATS if encoding(name).lossless]
GROUPED = [name for name in KERNEL_FORMATS if encoding(name).kind in ("sym", "aff", "table")]
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
NF4 = (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127)
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


def kept_at(planes: np.ndarray, bits: int, row: int, column: int) -> int:
    """The same of a 2:4 format: where no place of the value's four is its own, the code of zero."""
    found = 1 << bits - 1
    for kept in (column // 4 * 2, column // 4 * 2 + 1):
        quad, i = divmod(kept, 4)
        place = int(planes[32 * bits + row * 4 + i]) >> 2 * quad & 3
        code, start, low = 0, 0, 0
        for width in SPLITS[bits]:
            field, vector = divmod(quad, width // 2)
            byte = int(planes[start + 64 * vector + row * 4 + i])
            code |= (byte >> (field * width) & ((1 << width) - 1)) << low
            start, low = start + 32 * width, low + width
        found = code if place == column % 4 else found
    return found


def half_at(scales: np.ndarray, offset: int) -> np.float32:
    return np.float32(scales[offset : offset + 2].view(np.float16)[0])


def q4_k_scale(scales: np.ndarray, row: int, group: int) -> tuple[np.float32, np.float32]:
    packed = [int(scales[64 + 16 * index + row]) for index in range(12)]
    if group < 4:
        return np.float32(packed[group] & 63), np.float32(packed[group + 4] & 63)
    mixed = packed[group + 4]
    step = (mixed & 15) | (packed[group - 4] >> 6) << 4
    return np.float32(step), np.float32(mixed >> 4 | (packed[group] >> 6) << 4)


def byte_scale(strip: np.ndarray, name: str, row: int, column: int) -> np.float32:
    """What multiplies the table's entry of one value."""
    if name == "mxfp4":
        exponent = int(strip[16 * (column // 32) + row])
        return np.float32(0 if exponent == 0 else np.inf if exponent == 255 else 2.0 ** (exponent - 128))
    if name == "nvfp4":
        byte = int(strip[4 + 16 * (column // 16) + row])
        exponent, mantissa = byte >> 3 & 15, byte & 7
        scale = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
        return np.float32(scale) * strip[:4].view(np.float32)[0]
    run, group = divmod(column // (64 if name == "nf4" else 32), 16)
    at = strip[260 * run :]
    return np.float32(at[4 + 16 * group + row]) * at[:4].view(np.float32)[0]


def value_at(strip: np.ndarray, name: str, columns: int, row: int, column: int) -> np.float32:
    """One value of a strip, in plain Python."""
    found = encoding(name)
    if found.kind == "float":
        word = strip[(column * 16 + row) * found.block_bytes :][: found.block_bytes]
        if name == "bf16":
            return (word.view(np.uint16).astype(np.uint32) << 16).view(np.float32)[0]
        return np.float32(word.view(np.float32 if name == "f32" else np.float16)[0])
    group, inside = divmod(column, found.group_columns)
    if found.kind == "table":
        planes = strip[found.scale_bytes(columns) :].reshape(-1, 256)[column // 32]
        table = E2M1 if "fp4" in name else NF4
        return np.float32(table[code_at(planes, 4, row, column % 32)]) * byte_scale(strip, name, row, column)
    scales = strip[group * found.group_scale_bytes :][: found.group_scale_bytes]
    two_four = found.kind == "two_four"
    plane_bytes = 32 * found.code_bits + 64 if two_four else 64 * found.code_bits
    planes = strip[found.scale_bytes(columns) :].reshape(-1, plane_bytes)[column // 32]
    code = (kept_at if two_four else code_at)(planes, found.code_bits, row, column % 32)
    d = half_at(scales, 2 * row)
    if name == "q4_k":
        step, minimum = q4_k_scale(scales, row, inside // 32)
        return d * step * np.float32(code) - half_at(scales, 32 + 2 * row) * minimum
    if name == "q6_k":
        step = np.float32(scales[32 + 16 * (inside // 16) + row].view(np.int8))
        return d * step * np.float32(code - 32)
    if found.kind in ("sym", "two_four"):
        return d * np.float32(code - (1 << (found.code_bits - 1)))
    return d * np.float32(code) + half_at(scales, 32 + 2 * row)


def random_codes(name: str, rows: int, columns: int, seed: int = 0) -> Codes:
    found, rng = encoding(name), np.random.default_rng(seed)
    groups = found.num_groups(columns)
    codes = rng.integers(0, 1 << found.code_bits, (rows, groups * found.group_columns), dtype=np.uint8)
    codes[:, columns:] = zero_code(found)
    if found.kind == "table":
        scales = rng.integers(1, 127, (rows, groups * found.group_columns // found.scale_columns), dtype=np.uint8)
        shared = rng.uniform(0.1, 2, (num_strips(rows), found.num_runs(columns))).astype(np.float32)
        return Codes(codes, scales, None, shared if found.run_groups else None)
    d, m = rng.standard_normal((2, rows, groups)).astype(np.float16)
    return Codes(codes, d, m if found.kind == "aff" else None)


@pytest.mark.parametrize("name", KERNEL_FORMATS)
def test_unpack_reads_what_the_layout_says(name: str) -> None:
    rows, columns = 20, 512 if name.endswith("_k") else 1100 if name.startswith("nf4") else 100
    shape = (num_strips(rows), encoding(name).strip_bytes(columns))
    rng = np.random.default_rng(3)
    strips = rng.integers(0, 256, shape, dtype=np.uint8)
    if encoding(name).kind == "two_four":
        draw_kept(rng, strips, encoding(name), columns)
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
    q = source.codes.reshape(*source.d.shape, -1).astype(np.float32)
    d = source.scales(name)[..., None]
    if found.kind == "table":
        expected = d * np.array(found.levels, np.float32)[q.astype(int)]
    elif source.m is None:
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
    zero = {"sym": 1 << (found.code_bits - 1), "aff": 0}.get(found.kind, 7 if name.startswith("nf4") else 0)
    assert {code_at(planes[1], found.code_bits, row, column) for row in range(16) for column in range(8, 32)} == {zero}
    first = 4 * found.num_runs(40)
    stop = first + found.num_groups(40) * found.group_scale_bytes
    word = np.uint8 if found.kind == "table" else np.uint16
    scales = strips[0, first:stop].copy().view(word).reshape(-1, 16)
    assert not scales[:, 5:].any()
    assert scales[:, :5].all()
    assert not strips[0, stop : found.scale_bytes(40)].any()


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
    with pytest.raises(BadInput, match="mxfp4 has no float16 scales"):
        pack_codes(codes, "mxfp4", 64)
    with pytest.raises(BadInput, match="nf4_32 shares"):
        pack_codes(random_codes("mxfp4", 16, 64), "nf4_32", 64)
    with pytest.raises(BadInput, match="not sym4"):
        pack_floats(np.zeros((2, 4), np.float32), "sym4")
    with pytest.raises(BadInput, match=r"contiguous uint8 \(1, 576\)"):
        unpack(np.zeros((1, 300), np.uint8), "sym4", 16, 64)
    with pytest.raises(BadInput, match="q5_k has no lossless"):
        repack(random_rows("q5_k", 2, 256), "q5_k", 256)
