"""Files of torch.export: read without running anything in them, recorded, and refused where only code could."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modules import opened
from torch import nn

import pintpot
from pintpot.errors import BadFile, BadInput, UnsupportedModel, UsageError
from pintpot.kernels.torch.exported import read_exported
from pintpot.model.adapted import describe_adapted
from pintpot.runtime.exporting import record_exported
from pintpot.techniques.quantize.as_stored import AsStored


class Net(nn.Module):
    """Layers that become packed leaves, a weight with two users, buffers that are saved and not, a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(32, 16), nn.Linear(16, 32, bias=False)
        self.out.weight = self.words.weight
        self.conv, self.up, self.norm = nn.Conv1d(16, 16, 3, padding=1), nn.Linear(16, 24), nn.LayerNorm(24)
        self.register_buffer("order", torch.randperm(24))
        self.register_buffer("loose", torch.randn(24), persistent=False)
        self.down = nn.Linear(24, 16)

    def forward(self, ids: torch.Tensor, *, scale: torch.Tensor) -> dict[str, Any]:
        x = self.conv(self.words(ids).transpose(1, 2)).transpose(1, 2)
        x = self.norm(nn.functional.gelu(self.up(x)))[..., self.order] + self.loose
        first, second = x.split(12, -1)
        return {"logits": self.out(self.down(x)) * scale, "halves": (first.softmax(-1), second.amax(-1))}


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(3)
    return Net().eval()


@pytest.fixture(scope="module")
def given() -> dict[str, torch.Tensor]:
    return {"ids": torch.arange(20).reshape(2, 10), "scale": torch.full((1,), 0.5)}


@pytest.fixture(scope="module")
def path(net: Net, given: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("exported") / "net.pt2"
    torch.export.save(torch.export.export(net, (given["ids"],), {"scale": given["scale"]}), found)
    return found


def test_a_file_gives_what_the_module_gave(
    net: Net, given: dict[str, torch.Tensor], path: Path, tmp_path: Path
) -> None:
    with torch.inference_mode():
        wanted = net(given["ids"], scale=given["scale"])
        exact = read_exported(path)(**given)
    assert torch.equal(exact["logits"], wanted["logits"])
    record_exported(path, tmp_path / "recorded")
    model = describe_adapted(tmp_path / "recorded")
    matrices = {weight.name for part in model.parts for weight in part.weights() if len(weight.shape) == 2}
    assert {"up.weight", "down.weight", "conv.weight"} <= matrices
    with opened(model, tmp_path, AsStored()) as session:
        found = session(**given)
    torch.testing.assert_close(found["logits"], wanted["logits"], atol=1e-5, rtol=1e-4)
    for one, other in zip(found["halves"], wanted["halves"], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_it_is_described_by_its_path(path: Path) -> None:
    model = pintpot.describe(path)
    assert model.name == "net"
    assert pintpot.describe(path) == model
    with pytest.raises(UsageError, match="of its own shapes"):
        pintpot.describe(path, batch=2)


def changed(path: Path, place: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """The same archive with one of its JSON files changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(place, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith(name):
                document = json.loads(data)
                change(document)
                data = json.dumps(document).encode()
            new.writestr(item, data)
    return place


def first(kind: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The first node that calls this."""
    return lambda model: next(n for n in model["graph_module"]["graph"]["nodes"] if kind in n["target"])


MODEL, WEIGHTS = "models/model.json", "model_weights_config.json"


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        (MODEL, lambda m: first("gelu")(m).update(target="os.system"), "no operator of ATen"),
        (MODEL, lambda m: first("gelu")(m).update(target="torch.ops.aten.from_file.default"), "takes no tensor"),
        (MODEL, lambda m: first("gelu")(m).update(target="torch.ops.aten.no_such.default"), "has no operator"),
        (MODEL, lambda m: first("gelu")(m)["inputs"].append({"name": "f", "arg": {"as_graph": {}}}), "of the kind"),
        (WEIGHTS, lambda w: w["config"]["up.weight"].update(use_pickle=True), "pickled"),
        (WEIGHTS, lambda w: w["config"]["up.weight"]["tensor_meta"]["sizes"][0].update(as_int=10**6), "bytes"),
        (WEIGHTS, lambda w: w["config"].pop("up.weight"), "not what torch.export writes"),
    ],
)
def test_what_only_code_could_read_is_refused(
    path: Path, tmp_path: Path, name: str, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    damaged = changed(path, tmp_path / "net.pt2", name, change)
    with pytest.raises(BadInput, match=why):
        record_exported(damaged, tmp_path / "recorded")
    assert not (tmp_path / "recorded").exists()


def test_shapes_must_be_numbers(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(nn.Linear(4, 4), (torch.ones(2, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, tmp_path / "any.pt2")
    with pytest.raises(UnsupportedModel, match="export it for one shape"):
        read_exported(tmp_path / "any.pt2")
    (tmp_path / "no.pt2").write_bytes(b"PK nothing")
    with pytest.raises(BadFile, match="no archive"):
        read_exported(tmp_path / "no.pt2")
