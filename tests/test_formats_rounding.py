"""Rounding to groups: codes are the nearest, the search only helps, and no group gives NaN."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from test_formats_source import tensors_of

from pintpot.errors import BadInput
from pintpot.formats import KERNEL_FORMATS, encoding
from pintpot.formats.convert import convert, encode, relative_error
from pintpot.formats.rounding import round_to_nearest
from pintpot.formats.source import decode
from pintpot.formats.tiles import Codes, pack_codes, unpack

GROUPED = [name for name in KERNEL_FORMATS if encoding(name).kind in ("sym", "aff")]
TABLES = [name for name in KERNEL_FORMATS if encoding(name).kind == "table"]
pytestmark = pytest.mark.filterwarnings("error")


def levels(source: Codes, name: str) -> np.ndarray:
    """Every value that can be written under each scale: float64 [N, C, 2**B]."""
    bits = encoding(name).code_bits
    if name in TABLES:
        return source.scales(name).astype(np.float64)[..., None] * np.array(encoding(name).levels)
    codes = np.arange(1 << bits) - (0 if source.m is not None else 1 << (bits - 1))
    values = source.d.astype(np.float64)[..., None] * codes
    return values if source.m is None else values + source.m.astype(np.float64)[..., None]


def group_errors(values: np.ndarray, name: str, *, search: bool) -> np.ndarray:
    back = unpack(encode(values, name, search=search), name, *values.shape)
    width = encoding(name).scale_columns or 32
    return np.square(back.astype(np.float64) - values).reshape(len(values), -1, width).sum(axis=2)


@pytest.mark.parametrize("name", GROUPED + TABLES)
@pytest.mark.parametrize("search", [False, True])
def test_every_code_is_the_nearest_one(name: str, search: bool) -> None:
    values = np.random.default_rng(0).standard_normal((20, 128)).astype(np.float32)
    source = round_to_nearest(values, name, search=search)
    groups = values.reshape(*source.d.shape, -1, 1)
    distances = np.abs(levels(source, name)[:, :, None, :] - groups)
    chosen = np.take_along_axis(distances, source.codes.reshape(groups.shape).astype(np.int64), axis=3)
    assert (chosen[..., 0] <= distances.min(axis=3) * (1 + 1e-4) + 1e-7).all()


@pytest.mark.parametrize("name", GROUPED + TABLES)
def test_the_search_helps_every_group_or_leaves_it(name: str) -> None:
    values = np.random.default_rng(1).standard_t(4, (64, 256)).astype(np.float32)
    plain, searched = (group_errors(values, name, search=search) for search in (False, True))
    assert (searched <= plain * (1 + 1e-5)).all()
    assert searched.sum() < 0.97 * plain.sum()


def test_the_plain_variant_keeps_the_extremes() -> None:
    values = np.random.default_rng(2).standard_normal((8, 64)).astype(np.float32)
    back = unpack(encode(values, "aff4", search=False), "aff4", 8, 64).reshape(-1, 32)
    grouped = values.reshape(-1, 32)
    assert np.allclose(back.min(axis=1), grouped.min(axis=1), rtol=2e-3)
    assert np.allclose(back.max(axis=1), grouped.max(axis=1), rtol=4e-3)


HOSTILE = {
    "zero": np.zeros(32),
    "negative zero": -np.zeros(32),
    "constant": np.full(32, 0.37),
    "huge": np.linspace(-3.4e38, 3.4e38, 32),
    "huge constant": np.full(32, -3.4e38),
    "denormal": np.linspace(-1e-42, 1e-40, 32),
    "vanishing": np.linspace(-1e-9, 1e-9, 32),
    "one outlier": np.eye(1, 32, 5)[0] * 1e6,
    "two values": np.where(np.arange(32) % 2, 1e-3, -1e-3),
    "far from zero": 1000 + np.linspace(0, 1e-3, 32),
}


@pytest.mark.parametrize("name", GROUPED + TABLES)
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("search", [False, True])
def test_no_group_gives_nan(name: str, kind: str, search: bool) -> None:
    values = np.tile(HOSTILE[kind].astype(np.float32), (3, 2))
    source = round_to_nearest(values, name, search=search)
    back = unpack(pack_codes(source, name, 64), name, 3, 64)
    assert np.isfinite(back).all()
    reach = 2**40 if name in TABLES else 65504 * (1 << encoding(name).code_bits)
    largest = np.abs(np.clip(values, -reach, reach)).max()
    # The plain variant stays inside the range that it saw, a fitted scale within one step of it.
    gap = np.diff(sorted(encoding(name).levels)).max() if name in TABLES else 1
    step = float(np.abs(source.scales(name)).max() * gap) if search or name == "mxfp4" else 0.0
    assert np.abs(back).max() <= largest * 1.02 + 1e-6 + step
    if kind in ("zero", "negative zero") or (kind == "constant" and name != "mxfp4"):
        assert np.allclose(back, values, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["sym5", "aff3", "mxfp4"])
@pytest.mark.parametrize("columns", [1, 31, 40, 100])
def test_a_short_last_group_is_rounded_by_its_own_values(name: str, columns: int) -> None:
    values = np.random.default_rng(3).standard_normal((9, columns)).astype(np.float32)
    source = round_to_nearest(values, name)
    whole = columns // 32 * 32
    alone = round_to_nearest(np.ascontiguousarray(values[:, whole:]), name)
    assert np.array_equal(source.codes[:, whole:], alone.codes)
    assert np.array_equal(source.d[:, -1:], alone.d)
    assert set(source.codes[:, columns:].ravel()) <= {16 if name == "sym5" else 0}  # also the table's first: zero


def test_what_is_not_finite_is_counted() -> None:
    values = np.ones((40, 3000), np.float32)
    values[3, 5], values[30, 7], values[31, 2999] = np.nan, np.inf, -np.inf
    for name in ("sym4", "aff4", "nf4"):
        with pytest.raises(BadInput, match="3 of 120000 weights are infinite or not a number"):
            round_to_nearest(values, name)
    raw = values.astype(np.float16).view(np.uint8)
    with pytest.raises(BadInput, match="infinite or not a number"):
        convert(raw, "f16", "sym8", 3000)


def test_other_formats_are_refused() -> None:
    with pytest.raises(BadInput, match="not q4_k"):
        round_to_nearest(np.ones((1, 256), np.float32), "q4_k")
    with pytest.raises(BadInput, match="floats cannot be packed as q4_0"):
        encode(np.ones((1, 256), np.float32), "q4_0")


def error_table(values: np.ndarray) -> dict[str, float]:
    """Relative error of every grouped format, printed (`pytest -s` shows it)."""
    table = {name: relative_error(values, name) for name in GROUPED}
    print("  ".join(f"{name} {error:.5f}" for name, error in table.items()))
    return table


def rows_of(smollm2: Path, name: str) -> np.ndarray:
    tensor = next(found for found in tensors_of(smollm2) if found.name == name)
    raw = np.asarray(tensor.data)[:600]
    return decode(raw, tensor.tensor_type.name.lower(), int(tensor.shape[0]))


def test_more_bits_err_less_on_a_gaussian() -> None:
    table = error_table(np.random.default_rng(4).standard_normal((300, 576)).astype(np.float32))
    assert list(table.values()) == sorted(table[name] for name in GROUPED[:6]) + sorted(
        table[name] for name in GROUPED[6:]
    )
    assert table["sym8"] < 0.0055
    assert 0.07 < table["aff4"] < table["sym4"] < 0.085
    assert 0.28 < table["aff2"] < table["sym2"] < 0.35


def test_tables_err_as_little_as_their_papers_say() -> None:
    """Of a Gaussian: groups of 32 with NF4 less than sym4 with a quarter of a bit more; powers of two the most."""
    values = np.random.default_rng(4).standard_normal((300, 1024)).astype(np.float32)
    errors = {name: relative_error(values, name) for name in (*TABLES, "sym4", "sym3")}
    print("  ".join(f"{name} {error:.5f}" for name, error in errors.items()))
    assert errors["nf4_32"] < errors["sym4"] < errors["nf4"] < 0.09
    assert errors["nf4_32"] < errors["nvfp4"] < 0.085
    assert errors["nf4"] < errors["mxfp4"] < 0.115 < errors["sym3"]


def test_the_table_of_normal_float_is_that_of_the_paper() -> None:
    """Quantiles of the normal distribution, 8 above zero and 7 below, the ends 1 and -1; rounding costs under 1%."""
    quantile = NormalDist().inv_cdf
    end = (2 - 1 / 32 - 1 / 30) / 2
    above, below = ([quantile(float(p)) for p in np.linspace(end, 0.5, n)[:-1]] for n in (9, 8))
    exact = np.array(sorted([*above, 0.0, *(-value for value in below)])) / quantile(end)
    levels = np.array(encoding("nf4").levels)
    assert np.array_equal(levels, np.rint(127 * exact))
    groups = np.random.default_rng(5).standard_normal((5000, 64))
    scaled = groups / np.abs(groups).max(axis=1, keepdims=True)
    errors = [float(np.square(np.abs(scaled[..., None] - table).min(axis=2)).sum()) for table in (exact, levels / 127)]
    assert errors[1] < 1.01 * errors[0]


@pytest.mark.parametrize("name", ["nf4", "nf4_32", "nvfp4"])
def test_scales_of_small_rows_beside_large_ones_are_kept(name: str) -> None:
    """Rows of one strip share what their scales are multiples of."""
    rng = np.random.default_rng(6)
    values = rng.standard_normal((32, 2048)).astype(np.float32)
    sizes = np.exp(rng.uniform(-2, 2, (32, 1))).astype(np.float32)
    assert relative_error(values * sizes, name) < 1.03 * relative_error(values, name)


def test_more_bits_err_less_on_the_real_model(smollm2: Path) -> None:
    table = error_table(rows_of(smollm2, "token_embd.weight"))
    for kind in ("sym", "aff"):
        errors = [error for name, error in table.items() if name.startswith(kind)]
        assert errors == sorted(errors)
    assert table["sym8"] < 0.006
    assert 0.07 < table["aff4"] < table["sym4"] < 0.1


def test_a_grid_is_found_again(smollm2: Path) -> None:
    """Weights that lie on a 4-bit grid with a minimum are exactly what aff4 can write."""
    values = rows_of(smollm2, "blk.7.ffn_up.weight")
    assert relative_error(values, "aff4") < 1e-3


@pytest.mark.parametrize("source", ["f32", "f16", "bf16", "q2_k", "q3_k", "q5_k", "q4_0"])
def test_convert_is_decode_round_pack(source: str) -> None:
    rng = np.random.default_rng(5)
    raw = rng.integers(0, 256, (300, encoding(source).row_bytes(768)), dtype=np.uint8)
    if source in ("f32", "f16", "bf16"):
        raw &= np.uint8(0xBF)  # exponents that stay below 2
    blocks = raw.reshape(300, -1, encoding(source).block_bytes)
    for at in {"q2_k": (80, 82), "q3_k": (108,), "q5_k": (0, 2), "q4_0": (0,)}.get(source, ()):
        blocks[..., at : at + 2] = rng.uniform(0.01, 1, (*blocks.shape[:2], 1)).astype(np.float16).view(np.uint8)
    values = decode(raw, source, 768)
    for target in ("sym8", "aff3", "f32"):
        assert np.array_equal(convert(raw, source, target, 768), encode(values, target))
