"""Sampling in the native replay: the right token for a draw, the right shares, the same everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pintpot._native")

from replaying import Decoder, Rig, fill_call, make

from pintpot import _native
from pintpot.errors import UsageError
from pintpot.kernels.reference import Call, Sampling, sample

ISAS: list[str] = _native.available_isas()


def sampler(vocab: int, rows: int, isa: str = "") -> Rig:
    decoder = Decoder(vocab=vocab, sequences=rows, layers=1, logprob=True)
    return make(decoder, {"prefill": decoder.program("prefill", rows, rows, False)}, isa=isa)


def draw(
    rig: Rig,
    logits: NDArray[Any],
    history: tuple[int, ...] = (),
    bias: tuple[tuple[int, float], ...] = (),
    allowed: NDArray[np.bool_] | None = None,
    **how: Any,
) -> tuple[list[int], list[float]]:
    """Tokens drawn from rows of logits, with sampling settings per sequence."""
    replay, rows = rig.replays["prefill"], len(logits)
    call = replay.call(history=16)
    fill_call(call, {row: (0, [0]) for row in range(rows)}, rig.decoder.num_pages())
    call.history[:, : len(history)] = history
    call.history_length[:] = len(history)
    for row in range(rows):
        call.put_bias(row, bias)
        if allowed is not None:
            call.put_allowed(row, packed(allowed))
    for name, value in how.items():
        getattr(call, name)[:rows] = value
    replay.floats("logits")[:rows] = logits
    last = len(replay.program.ops) - 1
    assert replay.run(call, last)
    return replay.integers("next")[:rows].tolist(), replay.floats("logprob")[:rows].tolist()


def packed(allowed: NDArray[np.bool_]) -> NDArray[np.int32]:
    """A bit for each token, in words of 32."""
    bits = np.zeros(-(-len(allowed) // 32) * 32, np.uint8)
    bits[: len(allowed)] = allowed
    return np.packbits(bits, bitorder="little").view(np.int32)


def expected(
    logits: NDArray[Any], uniform: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> set[int]:
    """The token in float64: cut, then the first in index order whose running sum exceeds uniform * sum; its neighbours
    where rounding may decide."""
    p = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    keep = np.ones(len(p), bool)
    if top_k:
        keep &= p >= np.sort(p)[-min(top_k, len(p))]
    if top_p < 1:
        order = np.argsort(-p, kind="stable")
        order = order[keep[order]]
        count = int(np.searchsorted(np.cumsum(p[order]), top_p * p[order].sum())) + 1
        keep &= p >= p[order[:count]].min()
    keep &= p >= min_p
    kept = np.flatnonzero(keep)
    sums = np.cumsum(p[kept])
    found = {int(kept[min(np.searchsorted(sums, (uniform + shift) * sums[-1], side="right"), len(kept) - 1)])
             for shift in (-1e-5, 0, 1e-5)}  # fmt: skip
    return found


def test_draws_are_what_they_should_be_on_every_instruction_set() -> None:
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal((200, 333)) * 3).astype(np.float32)
    how: dict[str, Any] = {
        "temperature": rng.choice([0.3, 0.8, 1.5], 200), "top_k": rng.choice([0, 1, 7, 400], 200),
        "top_p": rng.choice([0.2, 0.9, 1.0], 200), "min_p": rng.choice([0.0, 0.1, 1.0], 200),
        "seed": np.arange(200), "counter": np.arange(200)[::-1],
    }  # fmt: skip
    found = draw(sampler(333, 200), logits, **how)
    for isa in ISAS[1:]:
        assert draw(sampler(333, 200, isa), logits, **how) == found
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    for row, token in enumerate(found[0]):
        uniform = _native.uniform(row, 199 - row)
        cuts = {name: float(how[name][row]) for name in ("temperature", "top_p", "min_p")}
        assert token in expected(logits[row], uniform, top_k=int(how["top_k"][row]), **cuts)
        assert found[1][row] == pytest.approx(log_p[row, token], abs=1e-4)


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32)).repeat(4)[::4]
    rig = sampler(4, 1000)
    counts = np.zeros(4)
    for seed in range(8):
        tokens, _ = draw(rig, np.tile(logits, (1000, 1)), temperature=1.0, seed=seed, counter=np.arange(1000))
        counts += np.bincount(tokens, minlength=4)
    share = counts / counts.sum()
    # Four standard deviations of 8,000 draws.
    assert np.abs(share - [0.5, 0.25, 0.125, 0.125]).max() < 4 * np.sqrt(0.25 / 8000)


def test_greedy_takes_the_lowest_of_equals_and_the_penalty_counts_once() -> None:
    rig = sampler(50, 2)
    logits = np.zeros((2, 50), np.float32)
    logits[0, [7, 31]] = 5
    logits[1, [40, 3]] = 4.0, 3.9
    assert draw(rig, logits)[0] == [7, 40]
    assert draw(rig, logits, history=(7, 40, 40), penalty=1.2)[0] == [31, 3]
    assert draw(rig, logits, history=(40, 40, 40), penalty=1.02)[0] == [7, 40]
    assert draw(rig, -logits - 1, history=(0,), penalty=1.5)[0] == [1, 1]
    assert draw(rig, logits, temperature=1e-30)[0] == [7, 40] or draw(rig, logits, temperature=1e-30)[0] == [31, 40]
    poisoned = np.full((2, 50), np.nan, np.float32)
    assert all(0 <= token < 50 for token in draw(rig, poisoned)[0] + draw(rig, poisoned, temperature=1.0)[0])


def test_a_mask_and_a_bias_are_those_of_the_reference() -> None:
    """Every mask leaves some tokens of 333; the words drawn are those of the reference over what is left."""
    rng, rig = np.random.default_rng(4), sampler(333, 60)
    logits = (rng.standard_normal((60, 333)) * 2).astype(np.float32)
    for share, temperature in ((0.5, 0.0), (0.02, 0.0), (0.3, 0.9), (0.01, 1.5)):
        allowed = rng.random(333) < share
        allowed[int(rng.integers(333))] = True
        bias = tuple((int(token), float(rng.normal() * 8)) for token in rng.integers(0, 333, 5))
        seeds = np.arange(60)
        found, told = draw(rig, logits, bias=bias, allowed=allowed, temperature=temperature, seed=seeds)
        how = Sampling(temperature=temperature)
        for row, token in enumerate(found):
            assert allowed[token]
            call = Call(*(np.zeros(1, np.int32),) * 3, (0,), ((0,),), bias=(bias,), allowed=(allowed,))
            wished = call.wished(logits[row], 0)
            near = {sample.draw(wished, how, _native.uniform(row, 0) + shift) for shift in (-1e-5, 0, 1e-5)}
            assert token in near
            assert told[row] == pytest.approx(sample.logprob(logits[row], token), abs=1e-4)


def test_what_cannot_be_wished_for_is_refused() -> None:
    rig, logits = sampler(50, 1), np.zeros((1, 50), np.float32)
    beyond = np.arange(64) >= 50
    with pytest.raises(UsageError, match="allows no token"):
        draw(rig, logits, allowed=beyond)
    with pytest.raises(UsageError, match="1 words of 32 bits for 50 tokens"):
        draw(rig, logits, allowed=np.ones(32, bool))
    for bias in ((50, 1.0), (-1, 1.0), (3, float("inf"))):
        with pytest.raises(UsageError, match="bias"):
            draw(rig, logits, bias=(bias,))
