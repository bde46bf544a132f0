"""Blocks that no recording can hold: measured, priced, computed by their own code, and refused where that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import own_blocks
import pytest
import torch
from modules import lacking, opened, planned
from own_blocks import LENGTH, WIDTH, Gate, Net
from torch import nn

import pintpot
from pintpot.errors import BadInput, UnsupportedModel, UsageError
from pintpot.kernels.torch.own_blocks import KNOWN
from pintpot.model.spec import Model
from pintpot.packer.pack import write_pack
from pintpot.techniques.quantize.as_stored import AsStored

X = torch.linspace(-1, 2, LENGTH * WIDTH).reshape(1, LENGTH, WIDTH)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(3)
    return Net().eval()


@pytest.fixture(scope="module")
def model(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return pintpot.adapt(net, X, folder=tmp_path_factory.mktemp("adapted") / "net")


def blocks_of(model: Model) -> dict[str, str]:
    found = model.parts[0].config["measured"]
    return {key.split("/")[1]: one["why"] for key, one in found.items()}


def test_what_cannot_be_recorded_is_measured_and_all_else_packed(net: Net, model: Model) -> None:
    why = blocks_of(model)
    assert set(why) == {"layers.1.gate", "cubed"}
    assert "depends on values" in why["layers.1.gate"]
    ops = [op for stage in model.parts[0].config["stages"] for op in stage["ops"]]
    packed = {op["weight"] for op in ops if op["kind"] == "linear"}
    assert packed == {"layers.0.up.weight", "layers.0.down.weight", "layers.1.up.weight", "layers.1.down.weight"}
    (block,) = (op for op in ops if op.get("block") == "layers.1.gate")
    assert set(block["own"]) == {"layers.1.gate.inner.weight", "layers.1.gate.inner.bias", "layers.1.gate.order"}
    took = model.parts[0].config["measured"]["forward/layers.1.gate/0"]
    assert 0 < took["seconds"][0] <= took["seconds"][1] <= took["seconds"][2]
    # What it makes of a picture of values: a product, and what it becomes.
    assert 2 * X.numel() * 4 <= took["inside_bytes"] < 40 * X.numel() * 4 + 200_000


def test_a_plan_counts_what_was_measured_and_says_so(model: Model) -> None:
    plan = planned(model, AsStored())
    took = list(model.parts[0].config["measured"].values())
    stage = plan.cost.stage("forward")
    low, high = (sum(one["seconds"][end] for one in took) for end in (0, 2))
    assert stage.seconds.low >= low / 1.1
    assert stage.seconds.high >= high
    inside = {holder.name: holder.high for holder in plan.cost.holders}["within calls of torch"]
    assert inside >= max(one["inside_bytes"] for one in took)
    form = {weight.name: weight for weight in plan.form.weights}
    kept = form["layers.1.gate.inner.weight"]
    assert (kept.format, kept.disk_bytes, kept.ram_bytes) == ("f32", 0, 4 * WIDTH**2)
    notes = [note for note in pintpot.plan(model, memory="900MB").notes if "not recorded" in note]
    assert len(notes) == 1
    assert "layers.1.gate" in notes[0]
    assert "cubed" in notes[0]


def test_it_runs_by_its_own_code_over_the_weights_of_the_pack(net: Net, model: Model, tmp_path: Path) -> None:
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        for x in (X, -X, torch.randn(1, LENGTH, WIDTH)):
            torch.testing.assert_close(session(x), net(x), atol=1e-5, rtol=1e-4)


def test_plan_pack_run_prove(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(own_blocks.__file__).parent))
    model = pintpot.adapt(net, X)
    assert pintpot.adapt(net, X).digest == model.digest, "the same module is the same model"
    plan = pintpot.plan(model, memory="900MB")
    folder = pintpot.pack(model, plan, tmp_path / "packed")
    with pintpot.run(folder) as session, torch.inference_mode():
        assert lacking(session(X), net(X)) <= plan.degradation.high + 1e-6
    proof = pintpot.prove(folder, runs=1, module="own_blocks:Net")
    assert proof.row("degradation").holds
    assert proof.row("memory").holds
    assert proof.row("forward").measured > 0
    with pytest.raises(UsageError, match=r"measured and not recorded.*module="):
        pintpot.prove(folder, runs=1)
    for name, words in (("own_blocks:Nobody", "no Nobody"), ("nowhere_at_all:Net", "nowhere_at_all"), ("Net", ":")):
        with pytest.raises(UsageError, match=words):
            pintpot.prove(folder, runs=1, module=name)


def test_another_process_needs_the_module(net: Net, model: Model, tmp_path: Path) -> None:
    folder = write_pack(model, planned(model, AsStored()), tmp_path / "pack")
    kept = KNOWN.pop(model.digest)
    try:
        with pytest.raises(UsageError, match=r"layers\.1\.gate.*measured and not recorded"):
            pintpot.run(folder)
        torch.manual_seed(99)
        with pintpot.run(folder, module=Net()) as session, torch.inference_mode():
            torch.testing.assert_close(session(X), net(X), atol=1e-5, rtol=1e-4)
        with pytest.raises(UsageError, match="another module"):
            pintpot.run(folder, module=nn.Linear(4, 4))
    finally:
        KNOWN[model.digest] = kept


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.layer, self.inner = nn.Linear(WIDTH, WIDTH), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.layer(x))


class Changing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1) if x.sum() > -1e9 else x


class Drawing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() + np.random.default_rng().random(x.shape[-1], np.float32))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x if x.sum() > 0 else -x


class Telling(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, bool]:
        return x, bool(x.sum() > 0)


class Told(Holder):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, positive = self.inner(self.layer(x))
        return x if positive else -x


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Holder(Changing()), "inner cannot be recorded, and changes what it is given"),
        (Holder(Drawing()), "inner cannot be recorded, and draws at random"),
        (Holder(Counting()), "inner cannot be recorded, and keeps something from call to call"),
        (Told(Telling()), "inner cannot be recorded, and gives back a bool"),
        (Deciding(), "depends on values.*may be a block of its own"),
    ],
)
def test_what_cannot_be_measured_either_is_refused(module: nn.Module, words: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        pintpot.adapt(module.eval(), X, folder=tmp_path / "none")


def test_without_values_nothing_is_measured(tmp_path: Path) -> None:
    with torch.device("meta"):
        empty = Holder(Gate()).eval()
    with pytest.raises(BadInput, match=r"inner cannot be recorded .*without its values it cannot be run"):
        pintpot.adapt(empty, X, folder=tmp_path / "none")
    with pytest.raises(UnsupportedModel, match="run=True"):
        pintpot.adapt(Holder(Gate()).eval(), X, folder=tmp_path / "none", run=False)
