"""Hub ids against a small hub on this machine: what a plan costs, redirects, tokens, the cache, resuming."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, Hub, serving
from tiny import K_QUANT, Tiny, write_gguf, write_hf

from pintpot.model.read import describe

_SOURCE = Path(__file__).parent.parent / "src"
_LARGE = Tiny(hidden=256, intermediate=512, layers=4, heads=8, kv_heads=2)
_PROGRAM = """
import json, sys
from pintpot.errors import PintpotError
from pintpot.model.hub import download
from pintpot.model.read import describe
from pintpot.model.store import Store
for step in sys.argv[2:]:
    try:
        model = describe(sys.argv[1], offline=True if step == "offline" else None)
        if step == "download":
            model = download(model)
            Store(model).read("embed", 0, 1)
        found = {"digest": model.digest, "kind": model.source.kind, "name": model.name, "path": model.source.path}
        print(json.dumps(found))
    except PintpotError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    folders = {"org/one": write_hf(root / "one", _LARGE), "org/sharded": write_hf(root / "sharded", _LARGE, shards=3)}
    for name, splits in (("gguf", 1), ("split", 2)):
        write_gguf(root / name / "m.gguf", K_QUANT, "q4_0", splits=splits)
        folders[f"org/{name}"] = root / name
    return folders


@pytest.fixture
def hub(models: dict[str, Path]) -> Iterator[Hub]:
    with serving(Hub(models)) as server:
        yield server


def _run(hub: Hub, home: Path, model: str, *steps: str, **settings: str) -> list[dict[str, Any]]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {
        **kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "PYTHONPATH": str(_SOURCE), "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **settings,
    }  # fmt: skip
    command = [sys.executable, "-c", _PROGRAM, model, *steps]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("model", ["one", "sharded"])
def test_describing_costs_kilobytes_and_download_gives_the_same_model(
    hub: Hub, models: dict[str, Path], tmp_path: Path, model: str
) -> None:
    remote = _run(hub, tmp_path, f"org/{model}", "describe")[0]
    weights = sum(file.stat().st_size for file in models[f"org/{model}"].glob("*.safetensors"))
    assert hub.bytes_sent < 200_000 < weights / 20
    assert remote["kind"] == "hub"
    assert remote["name"] == f"org/{model}"
    assert remote["digest"] == describe(str(models[f"org/{model}"])).digest
    fetched, again, offline = _run(hub, tmp_path, f"org/{model}", "download", "describe", "offline")
    assert weights < hub.bytes_sent < weights + 400_000
    assert fetched["digest"] == again["digest"] == offline["digest"] == remote["digest"]
    assert {fetched["kind"], again["kind"], offline["kind"]} == {"hf"}
    assert {fetched["name"], again["name"], offline["name"]} == {f"org/{model}"}


@pytest.mark.parametrize(("model", "file"), [("org/gguf", "m.gguf"), ("org/gguf:m.gguf", "m.gguf"), ("org/split", "")])
def test_gguf_on_the_hub(hub: Hub, models: dict[str, Path], tmp_path: Path, model: str, file: str) -> None:
    steps = _run(hub, tmp_path, model, "describe", "download", "describe")
    local = describe(str(models[model.partition(":")[0]] / file))
    assert [step["kind"] for step in steps] == ["hub", "gguf", "gguf"]
    assert {step["digest"] for step in steps} == {local.digest}


def test_what_the_cache_has_is_enough_without_an_answer(hub: Hub, tmp_path: Path) -> None:
    online = _run(hub, tmp_path, "org/one", "download")[0]
    elsewhere = Hub({}, url="http://127.0.0.1:9")
    assert _run(elsewhere, tmp_path, "org/one", "describe") == [online]
    assert _run(elsewhere, tmp_path, "org/one", "describe", HF_HUB_OFFLINE="1") == [online]


def test_without_answer_and_copy_it_says_so(hub: Hub, tmp_path: Path) -> None:
    elsewhere = Hub({}, url="http://127.0.0.1:9")
    error = _run(elsewhere, tmp_path, "org/one", "describe")[0]["error"]
    assert "does not answer" in error
    assert "no config.json" in error
    assert "offline" in _run(hub, tmp_path, "org/one", "offline")[0]["error"]
    assert "offline" in _run(hub, tmp_path, "org/one", "describe", HF_HUB_OFFLINE="1")[0]["error"]
    assert hub.requests == []


def test_a_described_model_is_incomplete_offline(hub: Hub, tmp_path: Path) -> None:
    _run(hub, tmp_path, "org/one", "describe")
    error = _run(hub, tmp_path, "org/one", "offline")[0]["error"]
    assert "incomplete" in error
    assert "model.safetensors" in error


def test_private_models_want_a_token_and_the_token_stays_here(models: dict[str, Path], tmp_path: Path) -> None:
    with serving(Hub(models, private=frozenset({"org/one"}))) as hub:
        assert "HF_TOKEN" in _run(hub, tmp_path, "org/one", "describe")[0]["error"]
        assert _run(hub, tmp_path, "org/one", "describe", HF_TOKEN=TOKEN)[0]["kind"] == "hub"


def test_unknown_ids_and_revisions(hub: Hub, tmp_path: Path) -> None:
    assert "no such model on the hub" in _run(hub, tmp_path, "org/none", "describe")[0]["error"]
    assert "not there: x.gguf" in _run(hub, tmp_path, "org/gguf:x.gguf", "describe")[0]["error"]


def test_a_server_without_ranges_is_refused_and_not_read_whole(models: dict[str, Path], tmp_path: Path) -> None:
    with serving(Hub(models, ranges=False)) as hub:
        assert "ranges are needed" in _run(hub, tmp_path, "org/one", "describe")[0]["error"]


def test_a_download_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "wide", Tiny(vocab=10_000, hidden=512, heads=4, kv_heads=2, tied=True))
    size = (folder / "model.safetensors").stat().st_size
    cut = 15_000_000  # huggingface_hub keeps what came in whole pieces of 10 MiB
    assert cut < size < cut + 10 * 2**20
    with serving(Hub({"org/wide": folder}, broken=cut)) as hub:
        assert _run(hub, tmp_path, "org/wide", "download")[0]["kind"] == "hf"
        assert hub.bytes_sent < size + cut // 2
        assert [line for line in hub.requests if line.startswith("GET /cdn") and line.endswith("-")]


def test_files_that_were_finished_are_not_fetched_again(hub: Hub, models: dict[str, Path], tmp_path: Path) -> None:
    size = sum(file.stat().st_size for file in models["org/sharded"].glob("*.safetensors"))
    _run(hub, tmp_path, "org/sharded", "download")
    blobs = [file for file in tmp_path.rglob("model-00002-of-00003.safetensors") if file.is_symlink()]
    blobs[0].resolve().unlink()
    blobs[0].unlink()
    before = hub.bytes_sent
    assert _run(hub, tmp_path, "org/sharded", "download")[0]["kind"] == "hf"
    assert hub.bytes_sent - before < size / 2
