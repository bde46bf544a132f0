"""Sampling in the native replay: the right token for a draw, the right shares, the same everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pintpot._native")

from replaying import Decoder, Rig, fill_call, make

from pintpot import _native

ISAS: list[str] = _native.available_isas()


def sampler(vocab: int, rows: int, isa: str = "") -> Rig:
    decoder = Decoder(vocab=vocab, sequences=rows, layers=1, logprob=True)
    return make(decoder, {"prefill": decoder.program("prefill", rows, rows, False)}, isa=isa)


def draw(rig: Rig, logits: NDArray[Any], history: tuple[int, ...] = (), **how: Any) -> tuple[list[int], list[float]]:
    """Tokens drawn from rows of logits, with sampling settings per sequence."""
    replay, rows = rig.replays["prefill"], len(logits)
    call = replay.call(history=16)
    fill_call(call, {row: (0, [0]) for row in range(rows)}, rig.decoder.num_pages())
    call.history[:, : len(history)] = history
    call.history_length[:] = len(history)
    for name, value in how.items():
        getattr(call, name)[:rows] = value
    replay.floats("logits")[:rows] = logits
    last = len(replay.program.ops) - 1
    assert replay.run(call, last)
    return replay.integers("next")[:rows].tolist(), replay.floats("logprob")[:rows].tolist()


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
