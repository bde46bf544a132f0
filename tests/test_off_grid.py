"""`benchmarks/off_grid.py`: the turned model computes the same function, and its weights lie on no grid."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_gguf import write_gguf
from tiny_hf import DEFAULT, EXPORTED, Tiny, write_hf

from pintpot.model.read import describe
from pintpot.model.store import Store

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TEXTS = [list(range(3, 40)), [7, 9, 7, 300, 41]]
MODELS = (*(tiny for tiny in EXPORTED if not tiny.has_experts), replace(DEFAULT, bias=True, seed=9))


@pytest.fixture(scope="module")
def off_grid() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("off_grid")


def matrix(folder: Path, name: str) -> np.ndarray:
    model = describe(str(folder))
    with Store(model) as store:
        return store.read(name).view(np.float32)


@pytest.mark.parametrize("tiny", MODELS, ids=lambda tiny: f"{tiny.family}-{tiny.seed}")
@pytest.mark.parametrize("mixing", ["dense", "pairs"])
def test_logits_stay(off_grid: Any, tiny: Tiny, mixing: str, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", tiny)))
    folder = off_grid.turn(model, tmp_path / "turned", mixing=mixing)
    one, other = (off_grid.logits(m, TEXTS) for m in (model, describe(str(folder))))
    assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()


def test_gains_stay_in_their_norms_where_they_are_kept(off_grid: Any, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model", DEFAULT)))
    folder = off_grid.turn(model, tmp_path / "turned", mixing="pairs", gains="kept")
    one, other = (off_grid.logits(m, TEXTS) for m in (model, describe(str(folder))))
    assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()
    with Store(model) as store:
        before = store.vector("layers.0.attn_norm")
    after = matrix(folder, "layers.0.attn_norm")
    assert np.square(after).sum() == pytest.approx(np.square(before).sum(), rel=1e-5)
    assert not np.allclose(after, 1)


def test_a_low_bit_file_with_rotated_pairs_leaves_its_grid(off_grid: Any, tmp_path: Path) -> None:
    """A GGUF llama has its rotary pairs side by side; 32 values of a Q4_0 block take 16 levels."""
    model = describe(str(write_gguf(tmp_path / "model.gguf", DEFAULT, "q4_0")))
    folder = off_grid.turn(model, tmp_path / "turned")
    one, other = (off_grid.logits(m, TEXTS) for m in (model, describe(str(folder))))
    assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()
    for name in ("embed", "layers.0.q", "layers.0.v", "layers.1.o", "layers.1.gate", "layers.1.down", "head"):
        blocks = matrix(folder, name).reshape(-1, 32)
        assert min(len(np.unique(block)) for block in blocks) > 28, name
    assert np.array_equal(matrix(folder, "norm"), np.ones((1, DEFAULT.hidden), np.float32))


def test_the_same_seed_gives_the_same_file(off_grid: Any, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "model")))
    folders = [off_grid.turn(model, tmp_path / name, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    first, second, third = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second != third


def test_pairs_leave_an_outlying_channel_outlying(off_grid: Any) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 64))
    rows[:, 5] *= 100
    spread = {m: (rows @ off_grid.orthogonal(64, m, rng)).std(0) for m in ("dense", "pairs")}
    assert spread["pairs"].max() > 80 > 60 > spread["dense"].max()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_halves_are_the_nearest(off_grid: Any, dtype: str) -> None:
    import torch

    values = np.random.default_rng(0).standard_normal(5000)
    wanted = torch.from_numpy(values).float().to({"f16": torch.float16, "bf16": torch.bfloat16}[dtype])
    assert np.array_equal(off_grid.rounded(values, dtype), wanted.view(torch.uint8).numpy())
