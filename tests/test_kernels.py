"""Native kernels against float64, on every instruction set of this CPU, outputs poisoned beforehand; and bit for bit
against each other and against any other way of cutting the work."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from byte_scales import draw_byte_scales
from numpy.typing import NDArray
from two_of_four import draw_kept

from pintpot.formats.hadamard import rotate_columns
from pintpot.formats.registry import KERNEL_FORMATS, encoding, num_strips
from pintpot.formats.tiles import unpack
from pintpot.kernels.reference.linear import brain
from pintpot.program.ops.linear import PLANES

native = pytest.importorskip("pintpot._native").kernels

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

ISAS: list[str] = native.available()
BRAIN = PLANES["bfloat16"]
PACKED = [name for name in KERNEL_FORMATS if encoding(name).kind != "float"]
FLOAT = [name for name in KERNEL_FORMATS if encoding(name).kind == "float"]
EPS = 2.0**-23


def drawn(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def poisoned(*shape: int) -> Floats:
    return np.full(shape, np.nan, np.float32)


def strips_of(name: str, rows: int, columns: int, seed: int = 0) -> Bytes:
    """Random strips with scales of a sane size; any code bits are allowed, and any two places of a four."""
    rng = np.random.default_rng(seed)
    found, count = encoding(name), num_strips(rows)
    strips = rng.integers(0, 256, (count, found.strip_bytes(columns)), np.uint8)
    if found.kind == "float":
        values = rng.standard_normal((count, found.strip_bytes(columns) // 16 // (4 if name == "f32" else 2), 16))
        values[:, columns:] = 0
        words = values.astype("f2" if name == "f16" else "f4")
        return ((words.view("u4") >> 16).astype("u2") if name == "bf16" else words).view(np.uint8).reshape(count, -1)
    if found.kind == "table":
        draw_byte_scales(rng, strips, found, columns, 0.1)
        return strips
    num_groups, size = found.num_groups(columns), found.group_scale_bytes
    area = strips[:, : num_groups * size].reshape(count, num_groups, size)
    halves = (rng.standard_normal((count, num_groups, 32)) * 0.02).astype(np.float16)
    wide = 64 if found.kind == "aff" or name == "q4_k" else 32
    area[:, :, :wide] = halves.view(np.uint8).reshape(count, num_groups, 64)[:, :, :wide]
    if found.kind == "two_four":
        draw_kept(rng, strips, found, columns)
    return strips


def quantized_reference(x: Floats, planes: int) -> NDArray[np.float64]:
    """What the activations stand for, by docs/layout.md, in float64."""
    tokens, k = x.shape
    padded = np.zeros((tokens, -(-k // 32) * 32), np.float32)
    padded[:, :k] = x
    groups = padded.reshape(tokens, -1, 32)
    peak = np.abs(groups).max(2)[..., None]
    s = peak / np.float32(127)
    ratio = groups * np.divide(np.float32(127), peak, out=np.zeros_like(peak), where=peak > 0)
    q = np.rint(ratio).astype(np.float64)
    if planes == 2:
        q += np.rint((ratio - np.rint(ratio)) * np.float32(254)) / 254
    return (q * s).reshape(tokens, -1)[:, :k]


def quantize(isa: str, x: Floats, planes: int, cuts: tuple[int, ...] = ()) -> Bytes:
    out = np.full(len(x) * native.quantized_bytes(x.shape[1], planes), 0xAA, np.uint8)
    edges = [0, *cuts, len(x)]
    for first, last in itertools.pairwise(edges):
        native.quantize(isa, x, planes, first, last, out)
    return out


def product(isa: str, name: str, strips: Bytes, rows: int, x: Floats, planes: int) -> Floats:
    """`planes` 0: float32 activations."""
    out = poisoned(len(x), rows)
    q = quantize(isa, x, planes) if planes else None
    native.strips(isa, name, strips.reshape(-1), x.shape[1], None if planes else x, q, planes, out)
    return out


def shapes(name: str) -> list[tuple[int, int, int]]:
    """(rows, columns, tokens); superblocks are whole."""
    if encoding(name).kind == "super":
        return [(16, 256, 1), (37, 512, 3), (48, 1280, 17), (5, 256, 70)]
    return [(16, 32, 1), (1, 33, 2), (37, 96, 7), (50, 1088, 20), (40, 100, 70)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", KERNEL_FORMATS)
def test_expanding_is_the_layouts_arithmetic_to_the_bit(name: str, isa: str) -> None:
    for rows, columns, _ in shapes(name):
        strips = strips_of(name, rows, columns)
        assert native.strip_bytes(isa, name, columns) == encoding(name).strip_bytes(columns)
        wanted = unpack(strips, name, rows, columns)
        for row in {0, rows // 2, rows - 1}:
            out = poisoned(columns)
            native.expand_row(isa, name, strips.reshape(-1), row, out)
            np.testing.assert_array_equal(out, wanted[row])
        whole = poisoned(16, columns)
        native.expand_strip(isa, name, strips[0].copy(), whole)
        np.testing.assert_array_equal(whole[: min(rows, 16)], wanted[:16])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("name", PACKED)
def test_int8_products(name: str, planes: int, isa: str) -> None:
    for rows, columns, tokens in shapes(name):
        strips, x = strips_of(name, rows, columns), drawn(1, tokens, columns)
        x[0, : min(columns, 32)] = 0
        weight = unpack(strips, name, rows, columns).astype(np.float64)
        seen = quantized_reference(x, planes)
        got = product(isa, name, strips, rows, x, planes)
        spread = _group_spread(name, strips, rows, columns) @ np.abs(seen).T
        bound = EPS * (columns / 32 + 8) * spread.T
        assert np.all(np.abs(got - seen @ weight.T) <= bound + 1e-30)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", PACKED)
def test_products_in_bfloat16(name: str, isa: str) -> None:
    """A weight whose unit times a hundred is no number of float32 may be rounded the other way, here and there."""
    for rows, columns, tokens in shapes(name):
        strips, x = strips_of(name, rows, columns), drawn(1, tokens, columns)
        weight, seen = brain(unpack(strips, name, rows, columns)).astype(np.float64), brain(x).astype(np.float64)
        got = product(isa, name, strips, rows, x, BRAIN)
        sizes = np.abs(seen) @ np.abs(weight).T
        away = np.abs(got - seen @ weight.T)
        assert np.all(away <= 2.0**-9 * sizes + 1e-30)
        assert np.median(away / (sizes + 1e-30)) < EPS * (columns / 32 + 36)


def _group_spread(name: str, strips: Bytes, rows: int, columns: int) -> NDArray[np.float64]:
    """Per weight, the largest size that a partial sum over its group can take, rounding errors scale with that."""
    weight = np.abs(unpack(strips, name, rows, columns)).astype(np.float64)
    padded = np.zeros((rows, -(-columns // 256) * 256))
    padded[:, :columns] = weight
    return np.repeat(padded.reshape(rows, -1, 32).max(2), 32, axis=1)[:, :columns] * 2


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", KERNEL_FORMATS)
def test_float_products(name: str, isa: str) -> None:
    for rows, columns, tokens in shapes(name):
        strips, x = strips_of(name, rows, columns), drawn(2, tokens, columns)
        weight = unpack(strips, name, rows, columns).astype(np.float64)
        got = product(isa, name, strips, rows, x, 0)
        bound = EPS * (columns / 32 + 36) * (np.abs(x).astype(np.float64) @ np.abs(weight).T)
        assert np.all(np.abs(got - x.astype(np.float64) @ weight.T) <= bound)


@pytest.mark.parametrize("name", KERNEL_FORMATS)
def test_products_are_the_same_bits_everywhere(name: str) -> None:
    rows, columns, tokens = 85, 1280, 39  # whole panels and what is left, two strips and one
    strips, x = strips_of(name, rows, columns), drawn(3, tokens, columns)
    for planes in (0, 1, 2, BRAIN) if name in PACKED else (0,):
        wanted = product("portable", name, strips, rows, x, planes)
        assert np.isfinite(wanted).all()
        for isa in ISAS:
            np.testing.assert_array_equal(product(isa, name, strips, rows, x, planes), wanted)
            for strip in range(len(strips)):
                part = slice(16 * strip, min(rows, 16 * strip + 16))
                got = product(isa, name, strips[strip : strip + 1], part.stop - part.start, x, planes)
                np.testing.assert_array_equal(got, wanted[:, part])
            for count in (1, 2, 5, 8, 16, 32):
                got = product(isa, name, strips, rows, x[:count].copy(), planes)
                np.testing.assert_array_equal(got, wanted[:count])


@pytest.mark.parametrize("isa", ISAS)
def test_extreme_codes_do_not_saturate(isa: str) -> None:
    for name in PACKED:
        for fill in (0x00, 0xFF):
            strips, found = strips_of(name, 16, 256), encoding(name)
            planes = strips[:, found.scale_bytes(256) :].reshape(-1, found.group_plane_bytes)
            planes[:, : 32 * found.code_bits if found.kind == "two_four" else None] = fill
            x = np.full((25, 256), -3.0, np.float32)
            x[1::2] *= -1
            weight = unpack(strips, name, 16, 256).astype(np.float64)
            got = product(isa, name, strips, 16, x, 1)
            np.testing.assert_allclose(got, x @ weight.T, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("planes", [1, 2, BRAIN])
def test_quantizing_is_the_same_bits_for_every_cut(planes: int) -> None:
    for k in (32, 33, 47, 160):
        x = drawn(4, 31, k)
        x[3, :32] = 0
        x[4, 0] = 1e30
        wanted = quantize("portable", x, planes)
        for isa in ISAS:
            for cuts in ((), (1, 2), (16, 24, 28), (5, 19)):
                np.testing.assert_array_equal(quantize(isa, x, planes, cuts), wanted)


def test_a_second_plane_is_nearer() -> None:
    x = drawn(5, 4, 256)
    errors = [np.abs(quantized_reference(x, planes) - x).max() for planes in (1, 2)]
    strips = strips_of("sym8", 16, 256)
    exact = x.astype(np.float64) @ unpack(strips, "sym8", 16, 256).astype(np.float64).T
    got = [np.abs(product(ISAS[0], "sym8", strips, 16, x, planes) - exact).max() for planes in (1, 2)]
    assert errors[1] < errors[0] / 100
    assert got[1] < got[0] / 50


@pytest.mark.parametrize("isa", ISAS)
def test_norms_and_gates(isa: str) -> None:
    for n in (1, 15, 16, 100, 576):
        x, w = drawn(6, n), drawn(7, n)
        y = poisoned(n)
        native.rmsnorm(isa, x, w, 1e-5, y)
        wide = x.astype(np.float64)
        np.testing.assert_allclose(y, wide / np.sqrt((wide**2).mean() + 1e-5) * w, rtol=2e-6)
        gate_up, y = drawn(8, 2 * n) * 8, poisoned(n)
        native.swiglu(isa, gate_up, y)
        gate, up = gate_up[:n].astype(np.float64), gate_up[n:]
        np.testing.assert_allclose(y, gate / (1 + np.exp(-gate)) * up, rtol=1e-6, atol=1e-30)
        native.geglu(isa, gate_up, y)
        inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
        np.testing.assert_allclose(y, 0.5 * gate * (1 + np.tanh(inner)) * up, rtol=1e-6, atol=1e-5)
        near = np.abs(2 * inner) < 80
        exact = gate[near] / (1 + np.exp(-2 * inner[near])) * up[near]
        np.testing.assert_allclose(y[near], exact, rtol=4e-5, atol=1e-35)
        total = w.copy()
        native.add(isa, x, total)
        np.testing.assert_array_equal(total, w + x)
        native.scale(isa, x, 0.3, y)
        np.testing.assert_array_equal(y, x * np.float32(0.3))


@pytest.mark.parametrize("size", [2, 4, 8, 16, 32, 64, 128, 512])
def test_rotations_are_the_bits_of_the_reference_and_undo_themselves(size: int) -> None:
    for blocks in (1, 3):
        x = drawn(9, size * blocks) * 10
        signs = np.array([[(-1) ** (i & j).bit_count() for j in range(size)] for i in range(size)])
        exact = (x.astype(np.float64).reshape(-1, size) @ signs / size**0.5).reshape(-1)
        wanted = rotate_columns(x[None], size)[0]
        np.testing.assert_allclose(wanted, exact, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(rotate_columns(exact[None], size)[0], x, rtol=1e-12, atol=1e-12)
        for isa in ISAS:
            y = x.copy()
            native.rotate(isa, y, size)
            np.testing.assert_array_equal(y, wanted, isa)


def test_blocks_that_cannot_be_rotated_are_refused() -> None:
    for length, size in ((48, 32), (48, 3), (48, 0), (48, 1)):
        with pytest.raises(ValueError, match="power of two"):
            native.rotate(ISAS[0], poisoned(length), size)


@pytest.mark.parametrize("isa", ISAS)
def test_exp_is_within_two_units_in_the_last_place(isa: str) -> None:
    x = np.linspace(-87, 0, 200_001, dtype=np.float32)
    p = poisoned(len(x))
    total = native.exp_sum(isa, x, 0.0, 1.0, p)
    exact = np.exp(x.astype(np.float64))
    assert np.abs((p - exact) / np.spacing(exact.astype(np.float32))).max() < 2
    assert total == pytest.approx(exact.sum(), rel=1e-5)
    native.exp_sum(isa, np.array([-np.inf, -200, 0], np.float32), 0.0, 1.0, p[:3])
    np.testing.assert_array_equal(p[:3], [0, 0, 1])


def test_elementwise_kernels_are_the_same_bits_everywhere() -> None:
    x, w, gate_up = drawn(9, 1000), drawn(10, 1000), drawn(11, 2000) * 10

    def results(isa: str) -> list[Any]:
        out = [poisoned(1000) for _ in range(4)]
        native.rmsnorm(isa, x, w, 1e-6, out[0])
        native.swiglu(isa, gate_up, out[1])
        native.geglu(isa, gate_up, out[3])
        return [*out[:2], out[3], native.exp_sum(isa, x, 3.0, 0.7, out[2]), out[2]]

    wanted = results("portable")
    for isa in ISAS:
        for got, want in zip(results(isa), wanted, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("isa", ISAS)
def test_sampling_helpers(isa: str) -> None:
    for n in (1, 7, 16, 33, 1000):
        x = np.round(drawn(12, n) * 4, 1).astype(np.float32)
        assert native.argmax(isa, x) == int(np.argmax(x))
        for k in {1, (n + 1) // 2, n}:
            assert native.kth_largest(isa, x, k) == np.sort(x)[::-1][k - 1]
        p = np.exp(x) / np.exp(x).sum()
        descending = np.sort(p)[::-1].astype(np.float64)
        for mass in (0.1, 0.5, 0.95, 1.5):
            reached = np.cumsum(descending) >= mass
            wanted = descending[int(np.argmax(reached))] if reached.any() else descending[-1]
            threshold = native.mass_threshold(isa, p, mass)
            assert threshold == np.float32(wanted)
            kept = np.where(p >= threshold, p, 0).astype(np.float64)
            assert native.sum_from(isa, p, threshold) == pytest.approx(kept.sum(), rel=1e-12)
            for share in (0.0, 0.3, 0.99):
                target = share * kept.sum()
                assert native.pick(isa, p, threshold, target) == int(np.argmax(np.cumsum(kept) > target))
        last = int(np.flatnonzero(p >= p.max() / 2)[-1])
        assert native.pick(isa, p, float(p.max() / 2), 1e9) == last


@pytest.mark.parametrize("isa", ISAS)
def test_argmax_skips_what_is_no_number(isa: str) -> None:
    assert native.argmax(isa, np.array([np.nan, 1, 3, np.nan, 3] * 7, np.float32)) == 2


@pytest.mark.parametrize("isa", ISAS)
def test_crc32c(isa: str) -> None:
    assert native.crc32c(isa, 0, np.frombuffer(b"123456789", np.uint8)) == 0xE3069283
    assert native.crc32c(isa, 0, np.zeros(32, np.uint8)) == 0x8A9136AA
    data = np.random.default_rng(13).integers(0, 256, 20_011, np.uint8)
    wanted = native.crc32c("portable", 0, data)
    assert native.crc32c(isa, 0, data) == wanted
    for cut in (1, 3072, 9999):
        assert native.crc32c(isa, native.crc32c(isa, 0, data[:cut].copy()), data[cut:].copy()) == wanted


@pytest.mark.parametrize("isa", ISAS)
def test_limit_loops_do_their_work(isa: str) -> None:
    data = np.random.default_rng(14).integers(0, 256, 4096, np.uint8)
    copy = np.zeros_like(data)
    native.copy_loop(isa, copy, data)
    np.testing.assert_array_equal(copy, data)
    assert native.read_loop(isa, data) != native.read_loop(isa, np.zeros(4096, np.uint8))
    assert native.int8_peak(isa, 1000) % 1000 == 0
    assert native.float_peak(isa, 1000) % 1000 == 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(RuntimeError, match="portable, avx2, avxvnni, avx512 and amx"):
        native.strip_bytes("mmx", "sym4", 32)
    with pytest.raises(ValueError, match="sym7"):
        native.strip_bytes("portable", "sym7", 32)
    with pytest.raises(ValueError, match="whole"):
        native.strips("portable", "sym4", np.zeros(100, np.uint8), 32, drawn(0, 1, 32), None, 1, poisoned(1, 16))
