"""Experts out of files: a tensor each, all of a layer in one, gate and up side by side; and what cannot be"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_model import ReferenceModel
from safetensors.numpy import load_file, save_file
from tiny import Tiny, hf_weights, torch_model, write_gguf, write_hf

from pintpot.errors import BadFile, UnsupportedModel
from pintpot.model.read import describe
from pintpot.model.store import Store

MIXTRAL = Tiny(family="mixtral", intermediate=48, experts=5, seed=3)
QWEN = Tiny(family="qwen3_moe", intermediate=32, experts=7, chosen=3, sums_to_one=False, seed=4)
TOKENS = [*range(5, 250, 13)]


def _edit(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tiny", [MIXTRAL, QWEN], ids=lambda tiny: tiny.family)
def test_rows_of_experts_are_read_wherever_they_lie(tiny: Tiny, shards: int, tmp_path: Path) -> None:
    model = describe(str(write_hf(tmp_path / "m", tiny, shards=shards)))
    values, names = hf_weights(tiny), {"mixtral": ("w1", "w2"), "qwen3_moe": ("gate_proj", "down_proj")}
    weights = {weight.name: weight for weight in model.part("language").weights()}
    with Store(model) as store:
        for role, side in zip(("gate", "down"), names[tiny.family], strict=True):
            parts = [value for name, value in values.items() if ".layers.1." in name and f".{side}." in name]
            found = weights[f"layers.1.{role}"]
            assert (found.experts, len(found.runs)) == (tiny.experts, tiny.experts)
            whole = np.concatenate(parts)
            np.testing.assert_array_equal(store.read(found).view(np.float32), whole)
            inside = store.read(found, len(parts[0]) - 3, len(parts[0]) + 7).view(np.float32)
            np.testing.assert_array_equal(inside, whole[len(parts[0]) - 3 : 2 * len(parts[0]) + 4])
    assert sum(weight.bytes_in(range(shards)) for weight in weights.values()) == model.num_bytes
    assert weights["layers.0.router"].shape == (tiny.experts, tiny.hidden)


@pytest.mark.parametrize("tiny", [MIXTRAL, QWEN], ids=lambda tiny: tiny.family)
def test_fused_tensors_hold_gate_and_up_side_by_side(tiny: Tiny, tmp_path: Path) -> None:
    fused = replace(tiny, fused=True)
    model, whole = describe(str(write_hf(tmp_path / "m", fused))), hf_weights(fused)
    both = whole["model.layers.1.mlp.experts.gate_up_proj"]
    with Store(model) as store:
        for role, rows in (("gate", slice(0, tiny.intermediate)), ("up", slice(tiny.intermediate, None))):
            found = store.read(f"layers.1.{role}").view(np.float32)
            np.testing.assert_array_equal(found, both[:, rows].reshape(-1, tiny.hidden))
    theirs = np.asarray(torch_model(write_hf(tmp_path / "n", fused))(_tensor()).logits[0].detach().double())
    ours = ReferenceModel(model).logits(TOKENS)
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4


def _tensor() -> Any:
    import torch

    return torch.tensor([TOKENS])


def test_shares_that_do_not_add_up_to_1_are_those_of_the_whole_softmax(tmp_path: Path) -> None:
    for sums_to_one in (True, False):
        folder = write_hf(tmp_path / str(sums_to_one), replace(QWEN, sums_to_one=sums_to_one))
        theirs = np.asarray(torch_model(folder)(_tensor()).logits[0].detach().double())
        ours = ReferenceModel(describe(str(folder))).logits(TOKENS)
        assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4


def test_configurations_that_are_not_computed_are_refused(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "m", QWEN)
    with pytest.raises(UnsupportedModel, match=r"layers \[1\] without experts"):
        describe(str(_edit(folder, mlp_only_layers=[1])))
    with pytest.raises(UnsupportedModel, match="each layer of 2"):
        describe(str(_edit(folder, mlp_only_layers=[], decoder_sparse_step=2)))
    with pytest.raises(BadFile, match="cannot meet 8 of 7"):
        describe(str(_edit(folder, decoder_sparse_step=1, num_experts_per_tok=8)))
    with pytest.raises(UnsupportedModel, match="multiples of 16"):
        describe(str(_edit(folder, num_experts_per_tok=2, moe_intermediate_size=40)))
    with pytest.raises(BadFile, match="there of 7 experts; the configuration says 6"):
        describe(str(_edit(folder, moe_intermediate_size=32, num_experts=6)))


def test_an_expert_that_is_missing_or_differs_is_named(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "m", MIXTRAL)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    at = "model.layers.0.block_sparse_moe.experts.2.w3.weight"
    lost = {name: value for name, value in tensors.items() if name != at}
    save_file(lost, file)
    with pytest.raises(BadFile, match=r"layers.0.up is there of 4 experts"):
        describe(str(folder))
    save_file({**lost, at: tensors[at].astype(np.float16)}, file)
    with pytest.raises(BadFile, match="not a matrix of one shape and type"):
        describe(str(folder))
    save_file({**lost, at: tensors[at][:32]}, file)
    with pytest.raises(BadFile, match="not a matrix of one shape and type"):
        describe(str(folder))


def test_a_gguf_file_of_llama_with_experts_is_mixtral(tmp_path: Path) -> None:
    model = describe(str(write_gguf(tmp_path / "m.gguf", MIXTRAL, "q4_0")))
    part = model.part("language")
    assert (part.family, part.config["rope_layout"]) == ("mixtral", "interleaved")
    gate = next(weight for weight in part.weights() if weight.name == "layers.0.gate")
    assert (gate.shape, gate.experts, gate.runs, gate.dtype) == ((240, 64), 5, (), "q4_0")
