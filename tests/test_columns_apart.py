"""Columns kept apart from a grid: their bytes, their products on every instruction set, and where they cannot be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from test_kernels import EPS, ISAS, poisoned, quantize, quantized_reference, strips_of

from pintpot._native import kernels
from pintpot.errors import BadInput, UnsupportedModel, UsageError
from pintpot.formats import KERNEL_FORMATS, apart, can_pack, encoding, is_lossless, num_strips
from pintpot.formats.columns_apart import joined, largest_columns, separated, without
from pintpot.formats.convert import encode
from pintpot.formats.tiles import unpack
from pintpot.kernels.native.bind import scratch_bytes
from pintpot.program.ops import check, linear
from pintpot.program.spec import Buffer, Extent, Op, Program, Segment

Floats = NDArray[np.float32]
GRIDS = [name for name in KERNEL_FORMATS if encoding(name).kind in ("sym", "aff", "table")]
SHAPES = [(16, 32, 1, 1), (1, 33, 2, 3), (37, 96, 7, 8), (50, 1088, 20, 33), (40, 100, 70, 5)]
"""Rows, columns, tokens, columns apart."""


def drawn(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def which_of(columns: int, count: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(columns).choice(columns, count, replace=False))


# --- Bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_what_is_kept_apart_is_a_half_and_the_grid_has_zeros_there(grid: str) -> None:
    for rows, columns, _, count in SHAPES:
        name, which = apart(grid, count), which_of(columns, count)
        values = drawn(1, rows, columns)
        values[:, which] *= 100
        base = encode(without(values, which), grid)
        strips = joined(base, values, name, which)
        assert strips.shape == (num_strips(rows), encoding(name).strip_bytes(columns))
        assert encoding(name).strip_bytes(columns) - encoding(grid).strip_bytes(columns) == -(-36 * count // 64) * 64
        found = unpack(strips, name, rows, columns)
        np.testing.assert_array_equal(found[:, which], values[:, which].astype(np.float16))
        np.testing.assert_array_equal(without(found, which), without(unpack(base, grid, rows, columns), which))
        again, kept, told = separated(strips, name, rows, columns)
        np.testing.assert_array_equal(again, base)
        np.testing.assert_array_equal(kept, values[:, which].astype(np.float16))
        np.testing.assert_array_equal(told, which)


def test_the_largest_columns_are_kept_where_nobody_says_which() -> None:
    values = drawn(2, 40, 64)
    values[:, [5, 60]] *= 30
    np.testing.assert_array_equal(largest_columns(values, "sym4+2"), [5, 60])
    error = [np.abs(unpack(encode(values, name), name, 40, 64) - values).max() for name in ("sym4", "sym4+2")]
    assert error[1] < 0.1 * error[0]


def test_names_say_the_grid_and_how_many() -> None:
    found = encoding("aff3+12")
    assert (found.grid, found.num_apart, found.bits) == ("aff3", 12, encoding("aff3").bits)
    assert encoding("aff3").grid == "aff3"
    assert apart("sym4", 0) == "sym4"
    assert can_pack("q4_0", "sym4+8")
    assert not is_lossless("q4_0", "sym4+8")
    for wrong in ("sym4+", "sym4+0", "sym4+08", "sym4+x", "sym4+-1", "sym4+4097", "f16+2", "q4_k+2", "sym4+²"):
        with pytest.raises(UnsupportedModel, match="no weight format"):
            encoding(wrong)
    for wrong in ("sym4+", "sym4+0", "sym4+08", "sym4+x", "sym4+-1", "sym4+1000000", "f16+2", "q4_0+2"):
        with pytest.raises(ValueError, match="no packed format"):
            kernels.strip_bytes("", wrong, 32)


def test_columns_that_are_not_there_are_refused() -> None:
    values = drawn(3, 20, 40)
    base = encode(values, "sym4")
    for wrong in ([3, 2], [3, 3], [-1, 3], [3, 40]):
        with pytest.raises(BadInput, match="2 columns in order"):
            joined(base, values, "sym4+2", np.array(wrong))
        strips = joined(base, values, "sym4+2", np.array([2, 3]))
        at = encoding("sym4").strip_bytes(40)
        strips[:, at : at + 8] = np.array(wrong, "<i4").view(np.uint8)
        with pytest.raises(BadInput, match="strips of 40 columns keep"):
            unpack(strips, "sym4+2", 20, 40)
    values[3, 3] = 1e6
    with pytest.raises(BadInput, match="too large"):
        joined(base, values, "sym4+2", np.array([2, 3]))


# --- Products -----------------------------------------------------------------------------------------------------


def strips_apart(grid: str, rows: int, columns: int, count: int) -> NDArray[np.uint8]:
    """Any codes in the grid, in the columns kept apart too."""
    return joined(strips_of(grid, rows, columns), drawn(5, rows, columns), apart(grid, count), which_of(columns, count))


def product(isa: str, grid: str, strips: NDArray[np.uint8], rows: int, x: Floats, planes: int, count: int) -> Floats:
    which, out = which_of(x.shape[1], count), poisoned(len(x), rows)
    rest, kept = without(x, which), np.ascontiguousarray(x[:, which])
    q = quantize(isa, rest, planes) if planes else None
    kernels.strips(
        isa, apart(grid, count), strips.reshape(-1), x.shape[1], None if planes else rest, q, planes, out, kept
    )
    return out


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("planes", [0, 1, 2])
@pytest.mark.parametrize("grid", ["sym4", "sym8", "aff3", "nf4", "nvfp4"])
def test_products_beside_float64(grid: str, planes: int, isa: str) -> None:
    for rows, columns, tokens, count in SHAPES:
        which, strips = which_of(columns, count), strips_apart(grid, rows, columns, count)
        x = drawn(6, tokens, columns)
        x[:, which] *= 50
        weight = unpack(strips, apart(grid, count), rows, columns).astype(np.float64)
        seen = x.astype(np.float64)
        if planes:
            seen = quantized_reference(without(x, which), planes)
            seen[:, which] = x[:, which]
        got = product(isa, grid, strips, rows, x, planes, count)
        # Partial sums of a group with a minimum may be larger than the whole.
        bound = 4 * EPS * (columns / 32 + 36) * (np.abs(seen) @ np.abs(weight).T + np.abs(seen).sum(1)[:, None] * 0.2)
        assert np.all(np.abs(got - seen @ weight.T) <= bound)


@pytest.mark.parametrize("grid", ["sym4", "aff2", "nf4_32"])
def test_products_are_the_same_bits_everywhere(grid: str) -> None:
    rows, columns, tokens, count = 37, 1280, 23, 11
    strips, x = strips_apart(grid, rows, columns, count), drawn(7, tokens, columns)
    for planes in (0, 1, 2):
        wanted = product("portable", grid, strips, rows, x, planes, count)
        assert np.isfinite(wanted).all()
        for isa, tokens in itertools.product(ISAS, (1, 2, 5, 8, 16, 23)):
            got = product(isa, grid, strips, rows, x[:tokens].copy(), planes, count)
            np.testing.assert_array_equal(got, wanted[:tokens])
        for strip in range(len(strips)):
            part = slice(16 * strip, min(rows, 16 * strip + 16))
            got = product("portable", grid, strips[strip : strip + 1], part.stop - part.start, x, planes, count)
            np.testing.assert_array_equal(got, wanted[:, part])


def test_a_call_that_cannot_be_is_refused() -> None:
    strips, x, out = strips_apart("sym4", 16, 32, 2), drawn(8, 3, 32), poisoned(3, 16)
    for kept in (None, drawn(8, 3, 1), drawn(8, 2, 2)):
        with pytest.raises(ValueError, match="apart"):
            kernels.strips("", "sym4+2", strips.reshape(-1), 32, x, None, 1, out, kept)
    with pytest.raises(ValueError, match="not expanded"):
        kernels.expand_row("", "sym4+2", strips.reshape(-1), 0, poisoned(32)[:])


# --- Programs -----------------------------------------------------------------------------------------------------


def program(formats: tuple[str, ...], kind: str = "linear", columns: int = 64) -> Program:
    weights = tuple(Buffer(f"w{i}", (32, columns), form, "weights", "pack") for i, form in enumerate(formats))
    buffers = (
        *weights,
        Buffer("tokens", ("tokens",), "int32", "buffers", "session"),
        Buffer("x", ("tokens", columns), "f32", "buffers", "step"),
        Buffer("y", ("tokens", 32 * len(formats)), "f32", "buffers", "step"),
    )
    reads = tuple(("weight", weight.name) for weight in weights)
    op = Op(kind, (("x", "x"), *reads), (("out", "y"),), (("activation", "int8"),))
    if kind == "embed":
        op = Op(kind, (("tokens", "tokens"), *reads), (("out", "x"),))
    bounds = (("tokens", 4), ("rows", 1), ("sequences", 1), ("context", 32))
    return Program("one", bounds, buffers, (op,), (Segment(0, 1),))


@pytest.mark.parametrize("tokens", [1, 4])
def test_columns_apart_are_priced_in_bytes_and_in_seconds(tokens: int) -> None:
    grid, columns = (program(formats) for formats in (("sym4", "f16"), ("sym4+3", "f16")))
    extent, kind = Extent(tokens), "matvec" if tokens == 1 else "matmul"
    before, after = (linear.demand(one.ops[0], one, extent) for one in (grid, columns))
    amounts = [{work.what: work.amount for work in found.work} for found in (before, after)]
    assert amounts[1].pop(f"{kind}/f16") - amounts[0].pop(f"{kind}/f16") == tokens * 32 * 3
    assert amounts[0] == amounts[1]
    assert f"{kind}/sym4" in amounts[0]
    assert after.ram_bytes - before.ram_bytes == 2 * 128


def test_low_bit_weights_of_one_input_keep_as_many_columns_apart() -> None:
    check(program(("sym4+2", "f16", "aff3+2")))
    for wrong in (("sym4+2", "sym4"), ("sym4+2", "sym4+3"), ("sym4+65",)):
        with pytest.raises(UsageError, match="apart"):
            check(program(wrong))
        with pytest.raises(UsageError, match="apart"):
            scratch_bytes(program(wrong), 1)
    with pytest.raises(UsageError, match="apart"):
        check(program(("sym4+2",), "embed"))
    with pytest.raises(UsageError, match="apart"):
        scratch_bytes(program(("sym4+2",), "embed"), 1)
