"""Sizes of every encoding, counted without numpy, against docs/layout.md and against ggml's own table."""

from __future__ import annotations

import subprocess
import sys

import gguf
import pytest

from pintpot.errors import BadInput, UnsupportedModel
from pintpot.formats import (
    KERNEL_FORMATS,
    SOURCE_FORMATS,
    can_pack,
    chunk_rows,
    encoding,
    encoding_of_ggml,
    is_lossless,
    num_strips,
    working_bytes,
)


def test_planning_counts_bytes_without_numpy() -> None:
    code = (
        "import sys; from pintpot.formats import encoding, working_bytes; "
        "encoding('sym4').packed_bytes(4096, 4096); working_bytes('convert', 'sym4', 4096, 4096); "
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", SOURCE_FORMATS)
def test_source_blocks_are_as_large_as_ggml_says(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name.upper()]
    found = encoding(name)
    assert (found.block_columns, found.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    assert found.ggml_type == kind.value
    assert encoding_of_ggml(kind.value) is found
    assert found.row_bytes(2048) == 2048 // found.block_columns * found.block_bytes


def expected_strip_bytes(name: str, columns: int) -> int:
    """docs/layout.md, spelled out once more and apart from the registry."""
    if name in ("f32", "f16", "bf16"):
        return -(-columns // 4) * 4 * 16 * (4 if name == "f32" else 2)
    if name in ("nf4", "nf4_32", "mxfp4", "nvfp4"):
        groups = -(-columns // (64 if name == "nf4" else 32))
        runs = {"mxfp4": 0, "nvfp4": 1}.get(name, -(-groups // 16))
        scales = 4 * runs + groups * (32 if name == "nvfp4" else 16)
        return -(-scales // 64) * 64 + groups * (512 if name == "nf4" else 256)
    groups = -(-columns // (256 if name.endswith("_k") else 32))
    bits = int(name[1]) if name.endswith("_k") else int(name[3])
    scales = {"sym": 32, "aff": 64, "q4_": 64 + 12 * 16, "q6_": 32 + 16 * 16}[name[:3]]
    planes = 32 * bits + 64 if name.endswith("_24") else 64 * bits * (8 if name.endswith("_k") else 1)
    return -(-groups * scales // 64) * 64 + groups * planes


@pytest.mark.parametrize("name", KERNEL_FORMATS)
@pytest.mark.parametrize("columns", [1, 31, 32, 33, 96, 576, 1000, 1536, 14336])
def test_strips_are_as_large_as_the_layout_says(name: str, columns: int) -> None:
    found = encoding(name)
    assert found.strip_bytes(columns) == expected_strip_bytes(name, columns)
    assert found.strip_bytes(columns) % 64 == 0
    assert found.packed_bytes(17, columns) == 2 * found.strip_bytes(columns)
    assert found.scale_bytes(columns) % 64 == 0


def test_bits_per_value() -> None:
    names = ("sym4", "aff4", "sym8", "q4_k", "q6_k", "q2_k", "sym8c", "f16", "nf4", "nf4_32", "mxfp4", "nvfp4")
    bits = {name: encoding(name).bits for name in names}
    assert bits == {
        "sym4": 4.5, "aff4": 5.0, "sym8": 8.5, "q4_k": 4.5, "q6_k": 6.5625, "q2_k": 2.625, "sym8c": 8.5, "f16": 16.0,
        "nf4": 4 + 8 / 64 + 32 / (256 * 64), "nf4_32": 4 + 8 / 32 + 32 / (256 * 32), "mxfp4": 4.25, "nvfp4": 4.5,
    }  # fmt: skip


def test_a_page_of_the_8_bit_cache_is_values_and_one_scale_for_32() -> None:
    page_tokens, head_dim = 32, 128
    assert page_tokens * encoding("sym8c").row_bytes(head_dim) == page_tokens * head_dim + page_tokens * 4 * 2


def test_what_becomes_of_sources() -> None:
    becomes = {name: (encoding(name).packed_as, encoding(name).lossless) for name in SOURCE_FORMATS}
    assert becomes["q4_0"] == ("sym4", True)
    assert becomes["q4_1"] == ("aff4", True)
    assert becomes["q5_1"] == ("aff5", True)
    assert becomes["q5_k"] == becomes["q3_k"] == becomes["q2_k"] == ("sym8", False)
    assert all(encoding(target).is_kernel and can_pack(name, target) for name, (target, _) in becomes.items())
    assert is_lossless("q6_k", "q6_k")
    assert is_lossless("bf16", "f32")
    assert not is_lossless("bf16", "f16")
    assert not is_lossless("q5_k", "sym8")
    assert can_pack("q4_0", "q4_k")
    assert not is_lossless("q4_0", "q4_k")
    assert not can_pack("sym4", "sym4")


def test_names_and_numbers_without_a_home_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"nf5.*there are.*q4_k"):
        encoding("nf5")
    with pytest.raises(UnsupportedModel, match=r"19.*these are.*q4_0"):
        encoding_of_ggml(19)


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadInput, match="100 columns of q4_0"):
        encoding("q4_0").row_bytes(100)
    for name, columns, fits in (("q4_k", 512, True), ("q6_k", 576, False), ("q8_0", 33, False), ("aff4", 33, True)):
        assert encoding(name).fits(columns) == fits
    with pytest.raises(BadInput, match="q4_0; it is packed as sym4"):
        encoding("q4_0").strip_bytes(64)


def test_working_memory_does_not_grow_with_the_rows() -> None:
    assert working_bytes("convert", "sym4", 128_256, 4096) == working_bytes("convert", "sym4", 4096, 4096)
    assert working_bytes("convert", "sym4", 16, 64) < 200_000
    assert chunk_rows(4096) % 16 == 0
    assert num_strips(33) == 3
