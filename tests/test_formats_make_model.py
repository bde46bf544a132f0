"""`benchmarks/make_model.py`: what it writes is read by `gguf`, by transformers and by Pintpot itself."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import pintpot.model.read
from pintpot.errors import DiskTooSmall, UsageError
from pintpot.formats import SOURCE_FORMATS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def make_model() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("make_model")


@pytest.fixture
def make(make_model: Any, tmp_path: Path) -> Callable[..., Path]:
    def write(shape: str, dtype: str, **options: Any) -> Path:
        path = make_model.make(make_model.SHAPES[shape], dtype, tmp_path, **options)
        assert isinstance(path, Path)
        return path

    return write


def test_gguf_reads_what_is_written(make: Callable[..., Path]) -> None:
    reader = gguf.GGUFReader(make("tiny", "q4_k", gguf=True))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    up = tensors["blk.1.ffn_up.weight"]
    assert (up.tensor_type.name, list(up.shape)) == ("Q4_K", [256, 512])
    values = gguf.dequantize(up.data, up.tensor_type)
    assert 0.015 < float(values.std()) < 0.025
    assert abs(float(values.mean())) < 0.002
    assert np.array_equal(tensors["output_norm.weight"].data, np.ones(256, np.float32))
    assert reader.fields["llama.attention.head_count_kv"].contents() == 2
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == 49_152


@pytest.mark.parametrize("dtype", SOURCE_FORMATS)
def test_every_encoding_is_drawn_with_the_same_spread(make_model: Any, dtype: str) -> None:
    from pintpot.formats.source import decode

    drawn = sys.modules["drawn_weights"].drawn_rows
    rows = np.concatenate(list(drawn(dtype, 300, 1024, 0.02, (1, 2))))
    values = decode(rows, dtype, 1024)
    assert 0.018 < float(values.std()) < 0.022
    assert abs(float(values.mean())) < 5e-4
    assert np.array_equal(rows, np.concatenate(list(drawn(dtype, 300, 1024, 0.02, (1, 2)))))


def test_transformers_runs_the_folder(make: Callable[..., Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make("tiny-qwen2", "bf16", gguf=False)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("a pint pot, 250 ml")["input_ids"]) == "a pint pot, 250 ml"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    logits = model(**tokenizer("They say you can't get a quart into a pint pot.", return_tensors="pt")).logits.detach()
    assert logits.shape[-1] == 50_000
    assert bool(torch.isfinite(logits).all())
    assert 0.05 < float(logits.std()) < 5


def test_large_folders_come_in_shards(make: Callable[..., Path]) -> None:
    folder = make("qwen2.5-1.5b", "f32", gguf=False, headers=True)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert shards == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    model = pintpot.model.read.describe(str(folder))
    assert round(model.num_values / 1e6) == 1544
    assert sum((folder / name).stat().st_blocks * 512 for name in shards) < 2_000_000


def test_an_8b_shape_is_described_from_its_header(make: Callable[..., Path]) -> None:
    path = make("llama-3.1-8b", "q4_0", gguf=True, headers=True)
    model = pintpot.model.read.describe(str(path))
    published, rope_factors = 8_030_261_248, 64
    assert model.num_values == published + rope_factors
    assert model.num_bytes == pytest.approx(4.517e9, rel=0.001)
    assert model.tokenizer.vocab_size == 128_256


def test_what_cannot_be_written_is_refused(make: Callable[..., Path], make_model: Any, monkeypatch: Any) -> None:
    with pytest.raises(UsageError, match="not q4_0"):
        make("tiny", "q4_0", gguf=False)
    with pytest.raises(UsageError, match="not sym4"):
        make("tiny", "sym4", gguf=True)
    monkeypatch.setattr(make_model.shutil, "disk_usage", lambda _: make_model.shutil._ntuple_diskusage(1, 1, 10))
    with pytest.raises(DiskTooSmall, match="10 B are free"):
        make("tiny", "q4_0", gguf=True)
