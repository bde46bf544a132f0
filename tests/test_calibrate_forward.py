"""The float network block by block: equal to the reference backend for every family, and true to what weights meet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_model import ReferenceModel
from tiny import FAMILIES, Tiny, write_hf

from pintpot.contract.statistics import InputStatistics
from pintpot.kernels.reference.linear import rms_norm
from pintpot.model.read import describe
from pintpot.model.store import Store
from pintpot.packer.calibrate.attention import ROWS
from pintpot.packer.calibrate.forward import Forward
from pintpot.program.spec import Op

Floats = NDArray[np.float32]


@pytest.mark.parametrize("tiny", FAMILIES, ids=lambda tiny: tiny.family)
def test_blocks_one_after_the_other_are_the_network(tiny: Tiny, tmp_path: Path) -> None:
    if tiny.family == "mistral":
        tiny = replace(tiny, window=48)
    model = describe(str(write_hf(tmp_path / "model", tiny)))
    texts = np.random.default_rng(1).integers(3, 300, (2, ROWS + 9)).tolist()
    texts[1] = texts[1][:50]
    whole = ReferenceModel(model, context=160)
    with Store(model) as store:
        forward = Forward(model, store, ROWS + 9)
        assert [block.name for block in forward.blocks] == [f"layers.{i}" for i in range(len(forward.blocks))]
        states = forward.embedded(texts)
        for block in forward.blocks:
            states = forward.run(block, forward.values(block), states, [len(text) for text in texts])
        states = forward.final(states)
    for text, part in zip(texts, np.split(states, [len(texts[0])]), strict=True):
        head = whole.memory["embed" if tiny.tied else "head"]
        np.testing.assert_allclose(part.astype(np.float64) @ head.T, whole.logits(text), atol=2e-4)


def test_whoever_asks_is_told_the_rows_that_meet_each_weight(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", Tiny(layers=1))))
    met: list[tuple[tuple[str, ...], Floats]] = []

    def told(op: Op, rows: Floats) -> None:
        met.append((op.read_all("weight"), rows))

    with Store(model) as store:
        forward = Forward(model, store, 20)
        (block,) = forward.blocks
        values = forward.values(block)
        states = forward.embedded([list(range(3, 23))])
        out = forward.run(block, values, states, [20], told)
    roles = [tuple(name.removeprefix("layers.0.") for name in weights) for weights, _ in met]
    assert roles == [("q", "k", "v"), ("o",), ("gate", "up"), ("down",)]
    rows = [found for _, found in met]
    np.testing.assert_allclose(rows[0], rms_norm(states, values["layers.0.attn_norm"], 1e-5), rtol=1e-5)
    gate, up = (rows[2] @ values[f"layers.0.{role}"].T for role in ("gate", "up"))
    np.testing.assert_allclose(rows[3], gate / (1 + np.exp(-gate)) * up, rtol=1e-4, atol=1e-6)
    middle = states + rows[1] @ values["layers.0.o"].T
    np.testing.assert_allclose(out, middle + rows[3] @ values["layers.0.down"].T, rtol=1e-4, atol=1e-6)


def test_scaled_columns_have_scaled_statistics() -> None:
    rng = np.random.default_rng(2)
    rows, factors = rng.normal(size=(64, 5)).astype(np.float32), np.array([1, 2, 3, 0.5, 4], np.float32)

    def seen(x: Floats) -> InputStatistics:
        return InputStatistics(len(x), x.T @ x / len(x), np.abs(x).mean(axis=0), np.square(x).mean(axis=0))

    found, expected = seen(rows).scaled(factors), seen(rows * factors)
    assert found.second_moment is not None
    assert expected.second_moment is not None
    np.testing.assert_allclose(found.second_moment, expected.second_moment, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.mean_abs, expected.mean_abs, rtol=1e-5)
    np.testing.assert_allclose(found.mean_square, expected.mean_square, rtol=1e-5)
