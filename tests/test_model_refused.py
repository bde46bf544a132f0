"""Folders and files that are no model, and configurations that disagree: each named for what it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import FAMILIES, hf_weights, write_gguf, write_hf

from pintpot.errors import BadFile, BadInput, UnsupportedModel
from pintpot.model.read import describe


def _edit(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in {**config, **changes}.items() if value != "REMOVE"}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 128}, "is 384x64, but the configuration makes it 384x128"),
        ({"vocab_size": 400}, "is 384x64, but the configuration makes it 400x64"),
        ({"intermediate_size": 96}, r"layers\.0\.\w+ is \w+, but the configuration makes it \w*96"),
        ({"num_hidden_layers": 3}, "says 3 layers, the tensors are of 2"),
        ({"num_hidden_layers": 2**31 - 1}, "the tensors are of 2"),
        ({"num_key_value_heads": 2}, "k is 32x64, but the configuration makes it 64x64"),
        ({"attention_bias": True}, "no tensor for layers.0.k_bias"),
        ({"model_type": "qwen3"}, "no tensor for layers.0.k_norm"),
    ],
)
def test_shapes_that_disagree(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    folder = _edit(write_hf(tmp_path / "m"), **changes)
    with pytest.raises(BadFile, match=words):
        describe(str(folder))


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("tokenizer.json", "no tokenizer in it"),
        ("model-00002-of-00003.safetensors", r"1 of 3 files are not there: model-00002-of-00003\.safetensors"),
        ("model.safetensors.index.json", r"neither model\.safetensors nor"),
        (
            "config.json",
            "is no model: a model's folder has a config.json or a .gguf file; it holds generation_config.json",
        ),
    ],
)
def test_folders_that_lack_something(tmp_path: Path, lost: str, words: str) -> None:
    folder = write_hf(tmp_path / "m", shards=3)
    (folder / lost).unlink()
    with pytest.raises(BadInput, match=words):
        describe(str(folder))


def test_paths_that_are_no_model(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path, "it is empty"), (tmp_path / "none", "no such file or folder"), ("gpt2", "no such file or folder"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=words):
            describe(str(path))
    empty = tmp_path / "empty.bin"
    empty.touch()
    with pytest.raises(BadInput, match=r"no GGUF file: it is empty$"):
        describe(str(empty))
    folder = write_hf(tmp_path / "m")
    with pytest.raises(BadInput, match="give the folder"):
        describe(str(folder / "model.safetensors"))
    (tmp_path / "bins").mkdir()
    shutil.copy(folder / "config.json", tmp_path / "bins")
    (tmp_path / "bins" / "pytorch_model.bin").touch()
    with pytest.raises(BadInput, match=r"pytorch_model\.bin is not read"):
        describe(str(tmp_path / "bins"))
    with pytest.raises(BadInput, match="no GGUF file"):
        describe("/dev/null")


def test_a_folder_of_gguf_files(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", splits=3)
    assert len(describe(str(tmp_path)).source.files) == 3
    write_gguf(tmp_path / "b.gguf")
    with pytest.raises(BadInput, match=r"2 GGUF models; name one: a-00001-of-00003\.gguf, b\.gguf"):
        describe(str(tmp_path))
    (tmp_path / "a-00002-of-00003.gguf").unlink()
    with pytest.raises(BadInput, match=r"not there: a-00002-of-00003\.gguf"):
        describe(str(tmp_path / "a-00003-of-00003.gguf"))
    shutil.copy(tmp_path / "a-00003-of-00003.gguf", tmp_path / "a-00002-of-00003.gguf")
    with pytest.raises(BadFile, match="says split 2 of 3, not 1"):
        describe(str(tmp_path / "a-00001-of-00003.gguf"))


def test_an_index_may_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "m", shards=2)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../m/model-00001-of-00002.safetensors"}}))
    with pytest.raises(BadFile, match="no safetensors file of this folder"):
        describe(str(folder))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": 1, "a": 2}', '{"a":' * 100_000, '{"hidden_size": ' + "9" * 5000 + "}"]
)  # fmt: skip
def test_config_files_that_are_no_configuration(tmp_path: Path, text: str) -> None:
    folder = write_hf(tmp_path / "m")
    (folder / "config.json").write_text(text)
    with pytest.raises(BadFile, match=r"config\.json"):
        describe(str(folder))


def test_dtypes_and_tensors_without_a_home(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = write_hf(tmp_path / "m")
    weights = hf_weights(FAMILIES[0])
    save_file({**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(16)}, folder / "model.safetensors")
    assert describe(str(folder)).num_values == sum(value.size for value in weights.values())
    save_file({**weights, "model.norm.weight": np.ones(64, np.float64)}, folder / "model.safetensors")
    with pytest.raises(UnsupportedModel, match="norm is written as F64"):
        describe(str(folder))
    save_file({**weights, "model.layers.0.mlp.extra.weight": np.ones(3)}, folder / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"1 tensors mean nothing .*mlp\.extra"):
        describe(str(folder))
