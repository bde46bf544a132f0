"""Hub ids against a small hub on this machine: what a plan costs, redirects, tokens, the cache, resuming."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
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


def _environment(hub: Hub, home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return {
        **kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "PYTHONPATH": str(_SOURCE), "NO_PROXY": "127.0.0.1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip


def _run(hub: Hub, home: Path, model: str, *steps: str, **settings: str) -> list[dict[str, Any]]:
    environment = {**_environment(hub, home), **settings}
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
    folder = write_hf(tmp_path / "wide", _WIDE)
    size = (folder / "model.safetensors").stat().st_size
    cut = 15_000_000  # huggingface_hub keeps what came in whole pieces of 10 MiB
    assert cut < size < cut + 10 * 2**20
    with serving(Hub({"org/wide": folder}, broken=cut)) as hub:
        assert _run(hub, tmp_path, "org/wide", "download")[0]["kind"] == "hf"
        assert hub.bytes_sent < size + cut // 2
        assert [line for line in hub.requests if line.startswith("GET /cdn") and line.endswith("-")]


_WIDE = Tiny(vocab=10_000, hidden=512, heads=4, kv_heads=2, tied=True)
_PIECE = 10 * 2**20 - 2**16  # what is on the disk after the first 10 MiB: a little may wait in a buffer


def _kill_in_the_middle(hub: Hub, home: Path, model: str) -> Path:
    """Kill -9 a download once the hub has sent all that it will; what is left of the large file."""
    hub.stalled = 13_000_000
    command = [sys.executable, "-c", _PROGRAM, model, "download"]
    process = subprocess.Popen(command, env=_environment(hub, home), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (left := [path for path in home.rglob("*.incomplete") if path.stat().st_size >= _PIECE]):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
        hub.going_on.set()
        hub.stalled = None
    hub.requests.clear()
    return left[0]


def _large_requests(hub: Hub) -> list[str]:
    """The ranges that downloads asked for, without those that describing asks for."""
    return [line.split()[2] if line.count(" ") > 1 else "" for line in hub.requests if _is_large(line)]


def _is_large(line: str) -> bool:
    return line.startswith("GET /cdn") and (line.endswith("-") or line.count(" ") == 1)


def test_a_killed_download_goes_on_inside_the_file(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "wide", _WIDE)
    source = (folder / "model.safetensors").read_bytes()
    with serving(Hub({"org/wide": folder})) as hub:
        left = _kill_in_the_middle(hub, tmp_path / "home", "org/wide")
        had = left.stat().st_size
        assert left.read_bytes() == source[:had]
        before = hub.bytes_sent
        found = _run(hub, tmp_path / "home", "org/wide", "download")[0]
        assert _large_requests(hub) == [f"bytes={had}-"]
        assert hub.bytes_sent - before < len(source) - had + 200_000
        assert (Path(found["path"]) / "model.safetensors").read_bytes() == source
        assert list(tmp_path.rglob("*.incomplete")) == []


def test_a_file_that_changed_since_the_kill_starts_anew(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "wide", _WIDE)
    with serving(Hub({"org/wide": folder})) as hub:
        left = _kill_in_the_middle(hub, tmp_path / "home", "org/wide")
        changed = bytearray((folder / "model.safetensors").read_bytes())
        changed[-8:] = bytes(8)
        (folder / "model.safetensors").write_bytes(changed)
        found = _run(hub, tmp_path / "home", "org/wide", "download")[0]
        assert _large_requests(hub) == [""]
        assert (Path(found["path"]) / "model.safetensors").read_bytes() == changed
        assert not left.exists()


def test_what_was_kept_is_checked_before_it_counts(tmp_path: Path) -> None:
    folder = write_hf(tmp_path / "wide", _WIDE)
    source = (folder / "model.safetensors").read_bytes()
    with serving(Hub({"org/wide": folder})) as hub:
        left = _kill_in_the_middle(hub, tmp_path / "home", "org/wide")
        had = left.stat().st_size
        left.write_bytes(bytes(had))
        found = _run(hub, tmp_path / "home", "org/wide", "download")[0]
        assert _large_requests(hub) == [f"bytes={had}-", ""]
        assert (Path(found["path"]) / "model.safetensors").read_bytes() == source


def test_files_that_were_finished_are_not_fetched_again(hub: Hub, models: dict[str, Path], tmp_path: Path) -> None:
    size = sum(file.stat().st_size for file in models["org/sharded"].glob("*.safetensors"))
    _run(hub, tmp_path, "org/sharded", "download")
    blobs = [file for file in tmp_path.rglob("model-00002-of-00003.safetensors") if file.is_symlink()]
    blobs[0].resolve().unlink()
    blobs[0].unlink()
    before = hub.bytes_sent
    assert _run(hub, tmp_path, "org/sharded", "download")[0]["kind"] == "hf"
    assert hub.bytes_sent - before < size / 2
