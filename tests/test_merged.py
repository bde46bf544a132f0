"""Adapters merged into weights: what peft merges, rounded once; read row by row, packed whole, told in the manifest."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packing import f32_cache, opened, plan_of
from safetensors.numpy import load_file, save_file
from tiny import Tiny, hf_shapes, torch_model, torch_model_of_gguf, write_gguf, write_hf

from pintpot.contract.step import Step
from pintpot.errors import BadFile, BadInput, PintpotError, UnsupportedModel
from pintpot.model.merged import CONFIG, VALUES
from pintpot.model.read import describe
from pintpot.model.store import Store
from pintpot.packer.apart import pack_apart
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import write_pack
from pintpot.proof.source import source_model
from pintpot.runtime.request import Request, Sampling
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

PEFT = Path(sys.prefix) / "data" / "peft"
TINY = Tiny(family="qwen2", heads=4, kv_heads=2, tied=True)
TOKENS = (1, 17, 90, 33, 204, 5, 6, 7, 150)
RANK, ALPHA = 4, 8.0
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CHUNK = PrefillChunk(tokens=16)


def adapters(at: Path, tiny: Tiny, base: str, seed: int = 3, **changed: Any) -> Path:
    """A folder as peft writes it, every matrix drawn."""
    draw = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for name, shape in hf_shapes(tiny).items():
        if name.split(".")[-2] in MODULES and name.endswith(".weight"):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            rows, columns = shape
            found[f"{stem}.lora_A.weight"] = draw.normal(0, 0.1, (RANK, columns)).astype(np.float32)
            found[f"{stem}.lora_B.weight"] = draw.normal(0, 0.1, (rows, RANK)).astype(np.float32)
    at.mkdir(parents=True)
    save_file(found, at / VALUES)
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": RANK,
        "lora_alpha": ALPHA, "lora_dropout": 0.0, "target_modules": list(MODULES), "bias": "none",
    }  # fmt: skip
    (at / CONFIG).write_text(json.dumps({**settings, **changed}))
    return at


def by_hand(model: Any, folder: Path) -> Any:
    """The model of transformers with the products added to its weights."""
    import torch

    found = load_file(folder / VALUES)
    with torch.no_grad():
        for name in found:
            if ".lora_A" in name:
                product = found[name.replace(".lora_A", ".lora_B")] @ found[name]
                weight = model.get_parameter(name.removeprefix("base_model.model.").replace(".lora_A", ""))
                weight += torch.from_numpy(product * (ALPHA / RANK))
    return model


def logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.tensor([TOKENS])).logits[0, -1])


def answers(source: str, folder: Path, *steps: Step) -> np.ndarray:
    """Logits of the last word by a pack."""
    model = describe(source)
    write_pack(model, plan_of(model, (*steps, CHUNK), change=f32_cache), folder)
    with opened(folder) as session:
        list(session.engine.generate(Request(TOKENS, 1, Sampling(temperature=0.0), (), True), frozenset()))
        return session.engine.stage("prefill").floats("logits")[0].copy()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("merged")
    write_hf(at / "m", TINY)
    adapters(at / "learned", TINY, str(at / "m"))
    return at


def test_rows_of_any_part_are_the_base_and_the_product(place: Path) -> None:
    base, model = describe(str(place / "m")), describe(str(place / "learned"))
    found = load_file(place / "learned" / VALUES)
    with Store(base) as one, Store(model) as other:
        for weight in model.part("language").weights():
            if weight.added is None:
                assert other.read(weight.name).tobytes() == one.read(weight.name).tobytes()
                continue
            a, b = (found[f"base_model.model.{end}"] for end in ends(weight.name))
            due = one.read(weight.name).view(np.float32) + np.float32(ALPHA / RANK) * (b @ a)
            assert weight.dtype == "f32"
            np.testing.assert_allclose(other.read(weight.name).view(np.float32), due, rtol=0, atol=1e-6)
            parts = [other.read(weight.name, first, min(5, len(due) - first)) for first in range(0, len(due), 5)]
            np.testing.assert_allclose(np.concatenate(parts).view(np.float32), due, rtol=0, atol=1e-6)


def ends(name: str) -> tuple[str, str]:
    from pintpot.model.names import hf_name

    stem = hf_name(name).removesuffix(".weight")
    return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


MERGE = """
import sys, json, torch
sys.path.insert(0, sys.argv[1])
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float32)
model = PeftModel.from_pretrained(base, sys.argv[3]).merge_and_unload()
print(json.dumps(model(torch.tensor([json.loads(sys.argv[4])])).logits[0, -1].tolist()))
"""


@pytest.fixture(scope="module")
def theirs(place: Path) -> np.ndarray:
    """Of the model that peft merges; by hand where peft is not here."""
    if not PEFT.exists():
        return logits(by_hand(torch_model(place / "m"), place / "learned"))
    words = json.dumps(TOKENS)
    command = [sys.executable, "-c", MERGE, str(PEFT), str(place / "m"), str(place / "learned"), words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def test_a_pack_in_float_answers_as_the_model_that_peft_merges(place: Path, theirs: np.ndarray) -> None:
    mine = answers(str(place / "learned"), place / "float", AsStored("all"))
    np.testing.assert_allclose(mine, theirs, atol=2e-5 * float(np.abs(theirs).max()))
    base = logits(torch_model(place / "m"))
    assert np.abs(theirs - base).max() > 0.05 * np.abs(base).max()


def test_rounded_it_follows_within_what_rounding_costs(place: Path, theirs: np.ndarray) -> None:
    whole = by_hand(torch_model(place / "m"), place / "learned")
    write_hf(place / "whole", TINY)
    whole.save_pretrained(place / "whole")
    distances = []
    for bits in (8, 4):
        steps = RoundToNearest("all", bits)
        mine, same = (answers(str(place / of), place / f"{of}-{bits}", steps) for of in ("learned", "whole"))
        scale = float(np.abs(theirs).max())
        distances.append(float(np.abs(mine - theirs).max()) / scale)
        # A value in the middle between two codes may fall to either side.
        assert np.abs(mine - same).max() < max(1e-3, 0.1 * distances[-1]) * scale
    assert 0 < distances[0] < 0.1 < distances[1] < 1


def test_rows_of_a_gguf_file_are_met_in_their_own_order(tmp_path: Path) -> None:
    """A llama's file has the rows of q and k in pairs, adapters have them in halves."""
    tiny = Tiny(tied=True)
    file = write_gguf(tmp_path / "llama.gguf", tiny, "f16")
    folder = adapters(tmp_path / "learned", tiny, "nothing/there")
    due = logits(by_hand(torch_model_of_gguf(file, tiny), folder))
    mine = answers(f"{file}+{folder}", tmp_path / "pack", AsStored("all"))
    np.testing.assert_allclose(mine, due, atol=2e-5 * float(np.abs(due).max()))


def test_the_pack_says_what_was_merged_and_finds_it_again(place: Path) -> None:
    model = describe(f"{place / 'm'}+{place / 'learned'}")
    assert model.digest == describe(str(place / "learned")).digest != describe(str(place / "m")).digest
    plan = plan_of(model, (RoundToNearest("all", 8), CHUNK))
    folder = pack_apart(model, plan, place / "apart")
    manifest, _ = read_manifest(folder)
    merged = manifest.source.merged
    assert merged is not None
    assert merged.digest == hashlib.sha256((place / "learned" / VALUES).read_bytes()).hexdigest()
    assert (merged.rank, merged.scale, len(merged.weights)) == (RANK, ALPHA / RANK, 7 * TINY.layers)
    assert merged.folder == str((place / "learned").resolve())
    assert "rank 4, scale 2" in str(merged)
    assert source_model(manifest).digest == model.digest


def test_other_adapters_are_another_model(place: Path) -> None:
    other = adapters(place / "other", TINY, "../m", seed=4)  # a path that is seen from their folder
    found = describe(str(other))
    assert found.digest != describe(str(place / "learned")).digest
    with Store(found) as one, Store(describe(str(place / "learned"))) as two:
        assert one.sample_digest() != two.sample_digest()


def without(end: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda found: {name: one for name, one in found.items() if not name.endswith(end)}


def narrower(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one[:, 1:] if ".lora_A" in name else one for name, one in found.items()}


@pytest.mark.parametrize(
    ("settings", "values", "kind", "why"),
    [
        ({"peft_type": "IA3"}, None, UnsupportedModel, "'IA3'; products"),
        ({"use_dora": True}, None, UnsupportedModel, "use_dora cannot be merged"),
        ({"modules_to_save": ["lm_head"]}, None, UnsupportedModel, "modules_to_save cannot be merged"),
        ({"lora_alpha": "much"}, None, BadFile, "lora_alpha is 'much'"),
        ({"base_model_name_or_path": None}, None, BadInput, "names no model"),
        ({}, without("lora_B.weight"), BadFile, "one of two matrices is not there"),
        ({}, narrower, BadFile, "beside layers.0"),
        ({}, lambda found: {}, BadFile, "holds no adapters"),
        ({}, lambda found: {"x.lora_A.weight": np.zeros((1, 1)), "x.lora_B.weight": np.zeros((1, 1))},
         UnsupportedModel, "means nothing to qwen2"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused_by_name(
    settings: dict[str, Any], values: Any, kind: type[PintpotError], why: str, place: Path, tmp_path: Path
) -> None:
    folder = adapters(tmp_path / "bad", TINY, str(place / "m"), **settings)
    if values is not None:
        save_file({k: np.ascontiguousarray(v) for k, v in values(load_file(folder / VALUES)).items()}, folder / VALUES)
    with pytest.raises(kind, match=why):
        describe(str(folder))


def test_adapters_on_adapters_are_refused(place: Path, tmp_path: Path) -> None:
    folder = adapters(tmp_path / "second", TINY, str(place / "learned"))
    with pytest.raises(UnsupportedModel, match="has adapters already"):
        describe(str(folder))
