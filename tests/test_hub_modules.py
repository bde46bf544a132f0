"""Hub ids of modules against a small hub on this machine: what is fetched, what is not, and the same answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hub_server import Hub, serving
from published import WORDS, save, save_tokenizer

from pintpot.model.hub_folder import INDEX, SINGLE

BERT = transformers.BertConfig(
    vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    max_position_embeddings=24,
)  # fmt: skip
POOLING = "1_Pooling/config.json"
NEEDED = {"config.json", "tokenizer.json", "modules.json", POOLING, SINGLE}
BESIDE = ("pytorch_model.bin", "tf_model.h5", "model.fp16.safetensors", "onnx/model.onnx", "README.md")
_FETCH = "import sys; from pintpot.model.hub_folder import fetch_folder; print(fetch_folder(sys.argv[1]))"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As publishers leave it: the same weights in many forms."""
    root = tmp_path_factory.mktemp("hub")
    folder = save(transformers.BertModel(BERT), root / "one")
    save_tokenizer(folder)
    (folder / POOLING).parent.mkdir()
    (folder / POOLING).write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    modules = [{"path": "", "type": "models.Transformer"}, {"path": "1_Pooling", "type": "models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    sharded = root / "sharded"
    shutil.copytree(folder, sharded)
    (sharded / SINGLE).unlink()
    transformers.BertModel.from_pretrained(folder).save_pretrained(sharded, max_shard_size="40KB")
    for place in (folder, sharded):
        (place / "onnx").mkdir()
        for name in BESIDE:
            (place / name).write_bytes(bytes(300_000))
    return {"org/one": folder, "org/sharded": sharded}


@pytest.fixture
def hub(published: dict[str, Path]) -> Iterator[Hub]:
    with serving(Hub(published)) as server:
        yield server


def asked(hub: Hub) -> set[str]:
    found = (re.search(r"/(?:resolve/[^/]+|cdn/[^/]+/[^/]+)/([^ ?]+)", line) for line in hub.requests)
    return {one[1] for one in found if one is not None}


def run(hub: Hub, home: Path, *command: str, **settings: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {
        **kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"),
        "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        **settings,
    }  # fmt: skip
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def embedding(folder: Path) -> torch.Tensor:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    inputs = tokenizer("cat mat", return_tensors="pt")
    with torch.inference_mode():
        found = transformers.BertModel.from_pretrained(folder)(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        )
    return found.last_hidden_state[0, 0]


def test_an_encoder_of_the_hub_answers_after_fetching_what_it_needs(
    hub: Hub, published: dict[str, Path], tmp_path: Path
) -> None:
    words = ["-m", "pintpot", "run", "org/one", "--text", "cat mat", "--context", "8", "--memory", "900MB", "--json"]
    found: dict[str, Any] = json.loads(run(hub, tmp_path, *words))
    vector = torch.tensor(found["answers"][0]["embedding"])
    assert float(torch.nn.functional.cosine_similarity(vector, embedding(published["org/one"]), dim=0)) > 0.99
    assert asked(hub) == NEEDED
    sent = hub.bytes_sent
    again = json.loads(run(hub, tmp_path, *words, HF_HUB_OFFLINE="1"))
    assert again["answers"] == found["answers"]
    assert hub.bytes_sent == sent


def test_of_many_forms_of_the_weights_one_is_fetched(hub: Hub, published: dict[str, Path], tmp_path: Path) -> None:
    shards = {path.name for path in published["org/sharded"].glob("model-*.safetensors")}
    assert len(shards) > 1
    folder = Path(run(hub, tmp_path, "-c", _FETCH, "org/sharded").strip())
    assert asked(hub) == {*shards, INDEX, *NEEDED} - {SINGLE}
    for name in (*shards, "config.json"):
        assert (folder / name).read_bytes() == (published["org/sharded"] / name).read_bytes()
    run(hub, tmp_path, "-c", _FETCH, "org/sharded", HF_HUB_OFFLINE="1")
