"""Values rounded into superblocks: strips as permuted blocks have them, searched scales, GGUF blocks, wrong shapes."""

from __future__ import annotations

from dataclasses import replace

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from test_formats_source import random_rows

from pintpot.errors import BadInput
from pintpot.formats.blocks import block_type, to_blocks
from pintpot.formats.compensation import Hessian, compensated, descended
from pintpot.formats.convert import convert, encode, relative_error
from pintpot.formats.grid import Grid
from pintpot.formats.permute import repack
from pintpot.formats.registry import encoding
from pintpot.formats.source import decode, six_bit_scales
from pintpot.formats.superblock_codes import Superblocks, pack_superblocks
from pintpot.formats.tiles import unpack

Floats = NDArray[np.float32]
NAMES = ("q4_k", "q6_k")
pytestmark = pytest.mark.filterwarnings("error")


def drawn(seed: int, rows: int = 37, columns: int = 768) -> Floats:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, (rows, columns)) * 0.05 * np.exp(rng.normal(size=(rows, 1)))).astype(np.float32)


def read_q4_k(raw: NDArray[np.uint8]) -> Superblocks:
    """Rows of GGUF's Q4_K blocks, read one field after the other."""
    blocks = raw.reshape(-1, 144)
    steps, minima = six_bit_scales(blocks[:, 4:16])
    codes = np.empty((len(blocks), 4, 2, 32), np.uint8)
    runs = blocks[:, 16:].reshape(-1, 4, 32)
    codes[:, :, 0], codes[:, :, 1] = runs & 15, runs >> 4
    halves = [np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).reshape(len(raw), -1) for at in (0, 2)]
    by_row = [one.reshape(len(raw), -1) for one in (codes, steps, minima)]
    return Superblocks(by_row[0], halves[0], by_row[1], halves[1], by_row[2])


def read_q6_k(raw: NDArray[np.uint8]) -> Superblocks:
    blocks = raw.reshape(-1, 210)
    low, high = blocks[:, :128].reshape(-1, 2, 1, 64), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    nibbles = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    codes = nibbles | (high >> np.array([0, 2, 4, 6], np.uint8).reshape(4, 1) & 3) << 4
    d = np.ascontiguousarray(blocks[:, 208:]).view(np.float16)
    steps = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return Superblocks(codes.reshape(len(raw), -1), d.reshape(len(raw), -1), steps.reshape(len(raw), -1))


@pytest.mark.parametrize(("name", "read"), [("q4_k", read_q4_k), ("q6_k", read_q6_k)])
@pytest.mark.parametrize(("rows", "columns"), [(16, 256), (35, 1536), (700, 512)])
def test_codes_and_scales_make_the_strips_that_blocks_are_permuted_to(
    name: str, read: object, rows: int, columns: int
) -> None:
    raw = random_rows(name, rows, columns)
    made = pack_superblocks(read(raw), name)  # type: ignore[operator]
    np.testing.assert_array_equal(made, repack(raw, name, columns))


@pytest.mark.parametrize("name", NAMES)
def test_no_superblock_loses_by_the_search_and_most_gain(name: str) -> None:
    values = drawn(1)
    plain, searched = (
        np.square(unpack(encode(values, name, search=search), name, *values.shape) - values)
        .reshape(len(values), -1, 256)
        .sum(axis=2, dtype=np.float64)
        for search in (False, True)
    )
    assert (searched <= plain * (1 + 1e-5)).all()
    assert searched.sum() < 0.9 * plain.sum()


def test_cheaper_scales_lose_little_and_finer_groups_gain() -> None:
    values = drawn(2, 64, 1536)
    errors = {name: relative_error(values, name) for name in ("q4_k", "sym4", "aff4", "q6_k", "sym6")}
    assert encoding("q4_k").bits == encoding("sym4").bits
    assert errors["q4_k"] < 0.85 * errors["sym4"]
    assert errors["q4_k"] < 1.03 * errors["aff4"]
    assert errors["q6_k"] < 0.85 * errors["sym6"]


@pytest.mark.parametrize("name", NAMES)
def test_scales_and_levels_of_a_grid_are_held_to_the_bit(name: str) -> None:
    """After descent too, where groups are given other scales in the units that they share."""
    values, rng = drawn(3, 20, 512), np.random.default_rng(3)
    rows = (rng.normal(size=(700, 128)) @ rng.normal(size=(128, 512)) + rng.normal(size=(700, 512))).astype(np.float32)
    grid, hessian = Grid.of(name), Hessian.of(rows.T @ rows / 700, 0.01, True)
    scales = grid.fit(values, np.diagonal(hessian.matrix))
    levels = compensated(values, grid, scales, hessian)
    again, fitted = descended(values, levels, grid, scales, hessian)
    assert not np.array_equal(fitted.d, scales.d)
    for found, held in ((levels, scales), (again, fitted)):
        kept = grid.values(found, held)
        np.testing.assert_array_equal(unpack(grid.strips(found, held), name, *values.shape), kept)
        np.testing.assert_array_equal(grid.values(grid.nearest(kept, held), held), kept)
    np.testing.assert_array_equal(fitted.shared, scales.shared)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_rounded_is_a_block_of_gguf(name: str) -> None:
    values = drawn(4, 33, 512)
    strips = encode(values, name)
    assert block_type(name, 512) == name
    blocks = to_blocks(strips, name, 33, 512)
    theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name.upper()])
    np.testing.assert_array_equal(theirs, unpack(strips, name, 33, 512))
    np.testing.assert_array_equal(convert(blocks, name, name, 512), strips)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_rounded_alike_however_many_come_at_once(name: str) -> None:
    values = drawn(5, 400, 1024)
    whole = encode(values, name)
    np.testing.assert_array_equal(whole[:3], encode(values[:48], name))
    np.testing.assert_array_equal(whole[20:], encode(values[320:], name))
    raw = values.astype(np.float16)
    np.testing.assert_array_equal(convert(raw.view(np.uint8), "f16", name, 1024), encode(raw.astype(np.float32), name))


@pytest.mark.parametrize("source", ["q4_0", "q5_k", "q8_0", "bf16"])
def test_any_source_is_rounded_by_what_it_stands_for(source: str) -> None:
    raw = np.tile(random_rows(source, 1, 512) & 0x3F, (17, 1))
    values = decode(raw, source, 512)
    np.testing.assert_array_equal(convert(raw, source, "q4_k", 512), encode(values, "q4_k"))


HOSTILE = {
    "zero": np.zeros(256),
    "negative zero": -np.zeros(256),
    "constant": np.full(256, 0.37),
    "negative constant": np.full(256, -0.37),
    "huge": np.linspace(-3.4e38, 3.4e38, 256),
    "denormal": np.linspace(-1e-42, 1e-40, 256),
    "vanishing": np.linspace(-1e-9, 1e-9, 256),
    "one outlier": np.eye(1, 256, 5)[0] * 1e6,
    "far from zero": 1000 + np.linspace(0, 1e-3, 256),
    "groups apart": np.repeat(10.0 ** np.arange(-6, 2), 32) * np.tile([-1, 1], 128),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("search", [False, True])
def test_no_superblock_gives_nan(name: str, kind: str, search: bool) -> None:
    values = np.tile(HOSTILE[kind].astype(np.float32), (3, 2))
    back = unpack(encode(values, name, search=search), name, 3, 512)
    assert np.isfinite(back).all()
    reach = min(float(np.abs(values).max()), 65504.0 * {"q4_k": 63 * 15, "q6_k": 128 * 32}[name])
    assert np.abs(back).max() <= 1.1 * reach + 1e-6
    if kind in ("zero", "negative zero", "constant", "negative constant"):
        np.testing.assert_allclose(back, values, rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_columns_that_meet_nothing_leave_scales_finite(name: str) -> None:
    values, importance = drawn(6, 5, 512), np.zeros(512, np.float32)
    importance[300:310] = 1
    grid = Grid.of(name)
    scales = grid.fit(values, importance)
    assert np.isfinite(grid.values(grid.nearest(values, scales), scales)).all()


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_no_whole_superblocks_are_refused(name: str) -> None:
    values = np.ones((3, 576), np.float32)
    why = f"576 columns of {name} are not whole blocks of 256"
    with pytest.raises(BadInput, match=why):
        encode(values, name)
    with pytest.raises(BadInput, match=why):
        convert(values.view(np.uint8), "f32", name, 576)
    with pytest.raises(BadInput, match=why):
        Grid.of(name).fit(values)
    values = np.ones((3, 512), np.float32)
    values[1, 7] = np.nan
    with pytest.raises(BadInput, match="1 of 1536 weights are infinite or not a number"):
        encode(values, name)


def test_scales_that_do_not_belong_are_refused() -> None:
    good = read_q4_k(random_rows("q4_k", 16, 512))
    other = read_q6_k(random_rows("q6_k", 16, 512))
    for wrong, name in (
        (replace(good, minima=None), "q4_k"),
        (replace(good, d=good.d[:, :1]), "q4_k"),
        (replace(good, steps=good.steps[:8]), "q4_k"),
        (good, "q6_k"),
        (other, "q4_k"),
        (replace(good, codes=good.codes[:, :500]), "q4_k"),
        (good, "sym4"),
    ):
        with pytest.raises(BadInput, match=r"scales of|whole blocks|packed as q4_k or q6_k"):
            pack_superblocks(wrong, name)
