"""Every family's program, replayed by the numpy reference, against transformers with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_model import ReferenceModel
from tiny import Tiny, torch_model, torch_model_of_gguf, write_gguf, write_hf

from pintpot.errors import UnsupportedModel
from pintpot.model.read import describe
from pintpot.nets import families
from pintpot.nets._rope import fill_rope_table, rope_table

TOKENS = [*range(5, 250, 13), *range(54, 39, -1)]


def torch_logits(model: Any, tokens: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.tensor([tokens])).logits[0].double())


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("name", families())
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    folder = write_hf(tmp_path / name, Tiny(family=name))
    logits = ReferenceModel(describe(str(folder))).logits(TOKENS)
    assert relative(logits, torch_logits(torch_model(folder), TOKENS)) < 1e-4


@pytest.mark.parametrize("scaling", ["linear", "llama3", "yarn"])
def test_rope_scaling_equals_that_of_transformers(scaling: str, tmp_path: Path) -> None:
    folder = write_hf(tmp_path / scaling, Tiny(rope=scaling))
    logits = ReferenceModel(describe(str(folder))).logits(TOKENS)
    assert relative(logits, torch_logits(torch_model(folder), TOKENS)) < 1e-4


LONG = Tiny(family="phi3", heads=4, kv_heads=2, hidden=128, rope="longrope", rotary=0.75, window=9, seed=6)


def test_longrope_equals_that_of_transformers_within_the_original_context(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "hf", LONG)
    model = describe(str(folder))
    assert (model.context, model.parts[0].config["max_position_embeddings"]) == (128, 256)
    assert relative(ReferenceModel(model).logits(TOKENS), torch_logits(torch_model(folder), TOKENS)) < 1e-4
    file = write_gguf(tmp_path / "m.gguf", LONG, "q8_0")
    theirs = torch_logits(torch_model_of_gguf(file, LONG), TOKENS)
    assert relative(ReferenceModel(describe(str(file))).logits(TOKENS), theirs) < 1e-4
    with pytest.raises(UnsupportedModel, match="129 positions; past 128 LongRoPE"):
        rope_table(model.parts[0].config, 129)


@pytest.mark.parametrize("name", families())
def test_gguf_files_give_the_same_logits(name: str, tmp_path: Path) -> None:
    tiny = Tiny(family=name)
    file = write_gguf(tmp_path / "m.gguf", tiny, "q8_0")
    logits = ReferenceModel(describe(str(file))).logits(TOKENS)
    assert relative(logits, torch_logits(torch_model_of_gguf(file, tiny), TOKENS)) < 1e-4


def test_chunks_and_one_pass_agree(tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "m", Tiny())))
    whole, parts = ReferenceModel(model).logits(TOKENS), ReferenceModel(model, chunk=5).logits(TOKENS)
    np.testing.assert_allclose(whole, parts, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("half", [1, 16, 24])
def test_the_rope_table_is_what_its_formula_gives(half: int) -> None:
    config = {"head_dim": 2 * half, "rope_theta": 500000.0}
    angles = np.outer(np.arange(3000), 500000.0 ** (-np.arange(half) / half))
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(rope_table(config, 3000), expected, rtol=0, atol=1e-7)
    factors = np.linspace(1, 8, half, dtype=np.float32)
    np.testing.assert_allclose(rope_table(config, 3, factors)[2, :half], np.cos(angles[2] / factors), rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="a table of 3 positions"):
        fill_rope_table(bytearray(3 * 8 * half - 1), config, 3)
