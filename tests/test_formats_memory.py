"""Random bytes through every reader and writer, and the memory that each says it needs against what numpy takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_formats_source import random_rows, same_bits
from test_formats_tiles import GROUPED, LOSSLESS, random_codes
from two_of_four import pruned

from pintpot.formats import KERNEL_FORMATS, SOURCE_FORMATS, can_pack, encoding, num_strips, working_bytes
from pintpot.formats.convert import convert, encode
from pintpot.formats.permute import repack
from pintpot.formats.rounding import round_to_nearest
from pintpot.formats.source import decode
from pintpot.formats.tiles import new_strips, pack_codes, unpack

SHAPES = [(16, 256), (5000, 256), (1024, 4096), (24, 28672), (333, 2048)]


def peak_bytes(work: Callable[[], Any]) -> int:
    """What numpy and Python allocated above the start, at the worst moment."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    work()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("name", SOURCE_FORMATS)
def test_reading_sources_keeps_to_its_memory(name: str, rows: int, columns: int) -> None:
    raw = random_rows(name, rows, columns)
    out = np.empty((rows, columns), np.float32)
    assert peak_bytes(lambda: decode(raw, name, columns, out)) <= working_bytes("decode", name, rows, columns)
    if encoding(name).lossless:
        strips = new_strips(encoding(name).packed_as, rows, columns)
        needed = working_bytes("permute", name, rows, columns)
        assert peak_bytes(lambda: repack(raw, name, columns, strips)) <= needed


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize("name", KERNEL_FORMATS)
def test_packing_keeps_to_its_memory(name: str, rows: int, columns: int) -> None:
    strips, found = new_strips(name, rows, columns), encoding(name)
    strips[:] = 0
    out = np.empty((rows, columns), np.float32)
    needed = working_bytes("unpack", name, rows, columns)
    assert peak_bytes(lambda: unpack(strips, name, rows, columns, out)) <= needed
    if name in GROUPED or found.kind == "two_four":
        codes = random_codes(found.dense, rows, columns)
        if found.kind == "two_four":
            codes = replace(codes, codes=pruned(codes.codes, 1 << found.code_bits - 1))
        needed = working_bytes("pack", name, rows, columns)
        assert peak_bytes(lambda: pack_codes(codes, name, columns, strips)) <= needed


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
@pytest.mark.parametrize(
    "target",
    [
        "sym8",
        "sym3",
        "aff4",
        "aff2",
        "f32",
        "f16",
        "bf16",
        "nf4",
        "mxfp4",
        "nvfp4",
        "q4_k",
        "q6_k",
        "sym8_24",
        "sym4_24",
    ],
)
def test_converting_keeps_to_its_memory(target: str, rows: int, columns: int) -> None:
    values = np.linspace(-1, 1, rows * columns, dtype=np.float32).reshape(rows, columns)
    values *= np.arange(columns) % 4 < (2 if encoding(target).kind == "two_four" else 4)
    raw = values.view(np.uint8) if target != "f32" else values.astype(np.float16).view(np.uint8)
    source = "f32" if target != "f32" else "f16"
    strips = new_strips(target, rows, columns)
    needed = working_bytes("convert", target, rows, columns)
    assert peak_bytes(lambda: convert(raw, source, target, columns, out=strips)) <= needed
    if target in GROUPED:
        result = rows * (-(-columns // 64) * 64 + 4 * columns // 32)
        needed = result + working_bytes("round", target, rows, columns)
        assert peak_bytes(lambda: round_to_nearest(values, target)) <= needed


@settings(max_examples=60)
@given(st.sampled_from(SOURCE_FORMATS), st.integers(1, 50), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_any_bytes_of_a_file_can_be_packed(name: str, rows: int, blocks: int, seed: int) -> None:
    columns = 256 * blocks
    raw = random_rows(name, rows, columns, seed)
    found = encoding(name)
    values = decode(raw, name, columns)
    if found.lossless:
        assert same_bits(unpack(repack(raw, name, columns), found.packed_as, rows, columns), values)
    targets = [target for target in KERNEL_FORMATS if can_pack(name, target)]
    target = targets[seed % len(targets)]
    finite = np.nan_to_num(values, nan=0.0, posinf=1e30, neginf=-1e30)
    if encoding(target).kind in ("sym", "aff", "table", "super"):
        back = unpack(encode(finite, target), target, rows, columns)
        assert np.isfinite(back).all()


@settings(max_examples=80)
@given(st.sampled_from(KERNEL_FORMATS), st.integers(1, 40), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_any_bytes_are_strips(name: str, rows: int, columns: int, seed: int) -> None:
    found = encoding(name)
    columns = columns if found.kind != "super" else -(-columns // 256) * 256
    shape = (num_strips(rows), found.strip_bytes(columns))
    strips = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    values = unpack(strips, name, rows, columns)
    assert values.shape == (rows, columns)
    whole = unpack(strips, name, num_strips(rows) * 16, columns)
    assert same_bits(np.ascontiguousarray(whole[:rows]), values)


@settings(max_examples=40)
@given(st.sampled_from(LOSSLESS), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_strips_do_not_depend_on_how_many_rows_come_at_once(name: str, chunks: int, seed: int) -> None:
    raw = random_rows(name, 16 * chunks + seed % 16, 256, seed)
    cut = 16 * (seed % (chunks + 1))
    parts = [repack(part, name, 256) for part in (raw[:cut], raw[cut:]) if len(part)]
    assert np.array_equal(np.concatenate(parts), repack(raw, name, 256))
