"""Native attention over a page table against float64: rotary embedding, every cache format, window and sinks; the
cache is poisoned, pages that nobody may see are not there, and every way of cutting the work gives the same bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pintpot.kernels.reference.attend import brain_weights, rounded
from pintpot.kernels.reference.linear import brain
from pintpot.program.ops.attend import ROUNDED, SEGMENT_TOKENS

native = pytest.importorskip("pintpot._native").kernels

Floats = NDArray[np.float32]
ISAS: list[str] = native.available()
PAGE = 32


@dataclass(frozen=True)
class Case:
    heads: int = 6
    kv_heads: int = 2
    dim: int = 64
    rope_dim: int = 64
    tokens: int = 70
    interleaved: bool = False
    norms: bool = False
    window: int = 0
    sinks: int = 0
    cache: str = "f16"
    rounded: str = "none"


CASES = {
    "plain": Case(),
    "one token": Case(tokens=1),
    "one head each": Case(heads=2, dim=32, rope_dim=32, tokens=33),
    "interleaved": Case(interleaved=True, dim=128, rope_dim=128, heads=4, tokens=40),
    "partly rotated": Case(rope_dim=32, dim=96, tokens=37),
    "head norms": Case(norms=True),
    "many query heads": Case(heads=40, kv_heads=1, tokens=35),
    "window": Case(window=20, tokens=150),
    "window and sinks": Case(window=40, sinks=4, tokens=200),
    "several segments": Case(heads=2, kv_heads=1, tokens=1100),
    "window over segments": Case(heads=2, kv_heads=1, tokens=1100, window=100, sinks=2),
    "int8": Case(cache="sym8c"),
    "float32": Case(cache="f32", tokens=45, window=33),
    "int8 wide": Case(cache="sym8c", dim=128, rope_dim=128, tokens=45, window=33),
}
CASES |= {f"{name}, {kind}": replace(case, rounded=kind) for kind in ROUNDED[1:] for name, case in CASES.items()}


class Cache:
    """k and v of scattered pages, poisoned; `table` leaves out the pages in `gone`."""

    def __init__(self, case: Case) -> None:
        pages = -(-case.tokens // PAGE)
        head = PAGE * {"f16": 2 * case.dim, "f32": 4 * case.dim, "sym8c": case.dim + case.dim // 32 * 2}[case.cache]
        self.k, self.v = (np.full((pages + 2) * case.kv_heads * head, 0xFF, np.uint8) for _ in range(2))
        self.table = np.random.default_rng(0).permutation(pages + 2)[:pages].astype(np.int32)


def inputs(case: Case) -> tuple[Floats, Floats, Floats | None, Floats | None]:
    rng = np.random.default_rng(1)
    qkv = rng.standard_normal((case.tokens, (case.heads + 2 * case.kv_heads) * case.dim)).astype(np.float32)
    angles = np.arange(case.tokens)[:, None] * 0.5 ** np.arange(case.rope_dim // 2)
    rope = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    norm = (1 + rng.standard_normal((2, case.dim)) * 0.1).astype(np.float32)
    return qkv, rope, *((norm[0], norm[1]) if case.norms else (None, None))


def run(isa: str, case: Case, chunk: int, pieces: bool = False) -> tuple[Floats, Cache]:
    """The sequence in chunks of tokens, each stored and then attended. Pages that left the window are taken away."""
    qkv, rope, q_norm, k_norm = inputs(case)
    cache, out = Cache(case), np.full((case.tokens, case.heads * case.dim), np.nan, np.float32)
    for first in range(0, case.tokens, chunk):
        part = slice(first, min(case.tokens, first + chunk))
        q = np.full_like(out[part], np.nan)
        where = (isa, case.cache, cache.k, cache.v, cache.table, case.kv_heads, case.dim)
        native.rope_store(*where, qkv[part], rope, case.interleaved, q_norm, k_norm, 1e-6, first, q)
        table = cache.table.copy()
        ends = np.arange(1, len(table) + 1) * PAGE
        if case.window:
            table[(ends <= first - case.window + 1) & (ends - PAGE >= case.sinks)] = -1
        where = (*where[:4], table, *where[5:])
        native.attend(
            *where, q, case.dim**-0.5, case.window, case.sinks, first, pieces, ROUNDED.index(case.rounded), out[part]
        )
    return out, cache


def reference(case: Case) -> NDArray[np.float64]:
    qkv, rope, q_norm, k_norm = inputs(case)
    split = np.split(qkv.astype(np.float64), np.cumsum([case.heads, case.kv_heads]) * case.dim, axis=1)
    q, k, v = (part.reshape(case.tokens, -1, case.dim) for part in split)
    if q_norm is not None and k_norm is not None:
        q = q / np.sqrt((q**2).mean(2, keepdims=True) + 1e-6) * q_norm
        k = k / np.sqrt((k**2).mean(2, keepdims=True) + 1e-6) * k_norm
    q, k = _rotate(case, q, rope), _stored(case, _rotate(case, k, rope))
    group = case.heads // case.kv_heads
    k, v = (np.repeat(part, group, axis=1) for part in (k, _stored(case, v)))
    if case.rounded == "integers":
        q, k, v = (rounded(part) for part in (q, k, v))
    if case.rounded == "bfloat16":
        q, k, v = (brain(part * by) / by for part, by in ((q, case.dim**-0.5), (k, 1), (v, 1)))
    scores = np.einsum("thd,shd->hts", q, k) * case.dim**-0.5
    at, key = np.arange(case.tokens)[:, None], np.arange(case.tokens)
    seen = key <= at
    if case.window:
        seen &= (key > at - case.window) | (key < case.sinks)
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(2, keepdims=True))
    weights /= weights.sum(2, keepdims=True)
    if case.rounded == "bfloat16":
        weights = brain_weights(scores, key // SEGMENT_TOKENS)
    for first in range(0, case.tokens if case.rounded == "integers" else 0, SEGMENT_TOKENS):
        part = slice(first, first + SEGMENT_TOKENS)
        worth = np.abs(v[part]).max(2).T[:, None]
        weights[..., part] = rounded(weights[..., part] * worth) / worth
    return np.einsum("hts,shd->thd", weights, v).reshape(case.tokens, -1)


def _rotate(case: Case, x: NDArray[np.float64], rope: Floats) -> NDArray[np.float64]:
    half, y = case.rope_dim // 2, x.copy()
    cos, sin = rope[:, None, :half].astype(np.float64), rope[:, None, half:].astype(np.float64)
    i = np.arange(half)
    a, b = (2 * i, 2 * i + 1) if case.interleaved else (i, i + half)
    y[..., a], y[..., b] = x[..., a] * cos - x[..., b] * sin, x[..., b] * cos + x[..., a] * sin
    return y


def _stored(case: Case, x: NDArray[np.float64]) -> NDArray[np.float64]:
    if case.cache == "f32":
        return x
    if case.cache == "f16":
        return x.astype(np.float16).astype(np.float64)
    groups = x.reshape(*x.shape[:2], -1, 32)
    scale = (np.abs(groups).max(3, keepdims=True) / 127).astype(np.float16).astype(np.float64)
    return (np.clip(np.rint(groups / scale), -127, 127) * scale).reshape(x.shape)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CASES)
def test_attention_is_the_references(name: str, isa: str) -> None:
    case = CASES[name]
    wanted = reference(case)
    # A value between two steps of the cache, or of what is rounded, may go the other way in float32 than in float64.
    tolerance = {"f16": 2e-3, "f32": {"none": 2e-5, "integers": 1e-3, "bfloat16": 4e-3}[case.rounded], "sym8c": 3e-2}[
        case.cache
    ]
    for chunk in (case.tokens, 16, 1) if case.tokens < 100 else (64,):
        out, _ = run(isa, case, chunk)
        np.testing.assert_allclose(out, wanted, atol=tolerance)
        assert np.abs(out - wanted).mean() < tolerance / 100


@pytest.mark.parametrize("name", CASES)
def test_attention_is_the_same_bits_for_every_cut_and_instruction_set(name: str) -> None:
    case = CASES[name]
    wanted, stored = run("portable", case, case.tokens)
    for isa in ISAS:
        for chunk, pieces in ((case.tokens, True), (37, False), (37, True)):
            out, cache = run(isa, case, chunk, pieces)
            np.testing.assert_array_equal(out, wanted)
            np.testing.assert_array_equal(cache.k, stored.k)
            np.testing.assert_array_equal(cache.v, stored.v)


@pytest.mark.parametrize("isa", ISAS)
def test_head_dims_and_large_scores(isa: str) -> None:
    case = replace(CASES["plain"], dim=256, rope_dim=256, heads=2, kv_heads=1, tokens=20)
    np.testing.assert_allclose(run(isa, case, 20)[0], reference(case), atol=2e-3)
    qkv, rope, _, _ = inputs(case)
    cache, out = Cache(case), np.full((20, 512), np.nan, np.float32)
    q = np.full_like(out, np.nan)
    where = (isa, "f16", cache.k, cache.v, cache.table, 1, 256)
    native.rope_store(*where, qkv * 100, rope, False, None, None, 1e-6, 0, q)
    native.attend(*where, q, 1.0, 0, 0, 0, False, False, out)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("name", "most"), [("plain", 65504.0), ("int8", 127 * 65504.0)])
def test_what_no_f16_can_hold_is_cut_off(name: str, most: float, isa: str) -> None:
    case = replace(CASES[name], tokens=1)
    qkv, rope, _, _ = inputs(case)
    cache, q = Cache(case), np.empty((1, case.heads * case.dim), np.float32)
    out = np.full_like(q, np.nan)
    where = (isa, case.cache, cache.k, cache.v, cache.table, case.kv_heads, case.dim)
    native.rope_store(*where, qkv * np.float32(1e15), rope, False, None, None, 1e-6, 0, q)
    native.attend(*where, q, 1.0, 0, 0, 0, False, False, out)
    signs = np.sign(qkv[:, -case.kv_heads * case.dim :]).reshape(case.kv_heads, 1, case.dim)
    wanted = np.repeat(most * signs, case.heads // case.kv_heads, axis=1)
    np.testing.assert_array_equal(out, wanted.reshape(1, -1))
