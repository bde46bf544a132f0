"""Strips back into GGUF blocks: the very bits that came, and of formats that GGUF lacks the very values."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from test_formats_tiles import GROUPED, LOSSLESS, random_codes, random_rows, same_bits
from two_of_four import pruned

from pintpot.errors import BadInput
from pintpot.formats import KERNEL_FORMATS, encoding
from pintpot.formats.blocks import HELD_BY, block_type, to_blocks
from pintpot.formats.convert import encode
from pintpot.formats.permute import repack
from pintpot.formats.source import decode
from pintpot.formats.tiles import pack_codes, unpack


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (16, 768), (37, 512), (300, 1024)])
def test_blocks_come_back_bit_by_bit(name: str, rows: int, columns: int) -> None:
    raw = random_rows(name, rows, columns)
    packed_as = encoding(name).packed_as
    assert block_type(packed_as, columns) == name
    assert np.array_equal(to_blocks(repack(raw, name, columns), packed_as, rows, columns), raw)


@pytest.mark.parametrize("name", [name for name in GROUPED if name in HELD_BY and encoding(HELD_BY[name]).is_source])
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (37, 96), (150, 1056)])
def test_larger_types_hold_the_same_values(name: str, rows: int, columns: int) -> None:
    strips = pack_codes(random_codes(name, rows, columns), name, columns)
    held = block_type(name, columns)
    assert held is not None
    blocks = to_blocks(strips, name, rows, columns)
    assert same_bits(decode(blocks, held, columns), unpack(strips, name, rows, columns))


@pytest.mark.parametrize(
    "name", [name for name in KERNEL_FORMATS if name in HELD_BY and encoding(name).kind != "super"]
)
def test_rounded_values_are_what_the_gguf_package_reads(name: str) -> None:
    values = np.random.default_rng(5).standard_normal((37, 96)).astype(np.float32)
    values[3] = 0
    values[7] *= np.float32(1e-30)
    strips = encode(pruned(values) if encoding(name).kind == "two_four" else values, name)
    kind = gguf.GGMLQuantizationType[HELD_BY[name].upper()]
    found = gguf.quants.dequantize(to_blocks(strips, name, *values.shape), kind).astype(np.float32)
    assert np.array_equal(found, unpack(strips, name, *values.shape))


def test_what_no_type_holds_is_refused() -> None:
    assert block_type("aff6", 64) is None
    assert block_type("sym4", 40) is None
    strips = pack_codes(random_codes("aff6", 5, 64), "aff6", 64)
    with pytest.raises(BadInput, match="no GGUF type holds"):
        to_blocks(strips, "aff6", 5, 64)
    with pytest.raises(BadInput, match="contiguous"):
        to_blocks(strips, "sym4", 5, 64)
