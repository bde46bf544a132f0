"""Modules of PyTorch, a user's own among them: recorded, planned, packed, run, and refused where that cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from modules import MB, lacking, opened, planned
from safetensors.torch import save_file

import pintpot
from pintpot.errors import BadFile, BadInput, BadPack, DoesNotFit, UnsupportedModel, UsageError
from pintpot.machine.process import module_process_bytes
from pintpot.model.adapted import DESCRIPTION, VERSION
from pintpot.model.spec import Model
from pintpot.packer.pack import write_pack
from pintpot.techniques.place.streamed import Streamed
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

WIDTH, LENGTH = 64, 16


class Shuffled(torch.nn.Module):
    """A layer that nobody but this test knows: its own parameter, a buffer of integers, and a change in place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.randn(width))
        self.register_buffer("order", torch.randperm(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = (x * self.gain).index_select(-1, self.order)
        mixed += x.mean(-1, keepdim=True)
        return mixed


class Net(torch.nn.Module):
    """A block of attention and a feed-forward network around the layer above."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(100, width)
        self.place = torch.nn.Parameter(torch.randn(1, LENGTH, width))
        self.norm = torch.nn.LayerNorm(width)
        self.q, self.k, self.v = (torch.nn.Linear(width, width) for _ in range(3))
        self.own, self.drop = Shuffled(width), torch.nn.Dropout(0.1)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width, bias=False)
        self.head = torch.nn.Linear(width, 10)

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.embed(ids) + self.place
        normed = self.norm(x)
        q, k, v = (one(normed).unflatten(-1, (4, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.drop(self.own(attended))
        x = x + self.down(torch.nn.functional.gelu(self.up(x)))
        return {"logits": self.head(x[:, 0]), "states": x}


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(7)
    return Net().eval()


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.arange(2 * LENGTH).reshape(2, LENGTH) * 3 % 100


@pytest.fixture(scope="module")
def model(net: Net, ids: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return pintpot.adapt(net, ids, folder=tmp_path_factory.mktemp("adapted") / "net")


def test_a_users_own_module_in_five_lines(net: Net, ids: torch.Tensor, tmp_path: Path) -> None:
    model = pintpot.adapt(net, ids)
    plan = pintpot.plan(model, memory="800MB")
    folder = pintpot.pack(model, plan, tmp_path / "packed")
    with pintpot.run(folder) as session, torch.inference_mode():
        given, wanted = session(ids), net(ids)
    proof = pintpot.prove(folder, runs=1)
    assert plan.cost.stage("forward").multiply_adds > 2 * LENGTH * 11 * WIDTH**2
    assert plan.degradation.unit == "of cosine"
    assert given.keys() == wanted.keys()
    assert all(lacking(given[key], wanted[key]) <= plan.degradation.high + 1e-6 for key in wanted)
    assert {one.output for one in proof.likeness} == set(wanted)
    assert proof.row("degradation").holds
    assert proof.row("forward").measured > 0
    assert {"planning", "packing", "measured run", "limit", "answers of the pack", "reference"} == {
        peak.process for peak in proof.peaks
    }
    memory = proof.row("memory")
    assert memory.holds, f"{memory.measured} bytes, promised {memory.promised_low} to {memory.promised_high}"
    assert "1 minus the cosine" in proof.report_path.read_text()


def test_unpacked_leaves_give_what_the_module_gives(net: Net, model: Model, ids: torch.Tensor, tmp_path: Path) -> None:
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        for turn in range(3):
            other = (ids + turn) % 100
            given, wanted = session(other), net(other)
            for key in wanted:
                torch.testing.assert_close(given[key], wanted[key], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("bits", "most"), [(8, 1e-4), (4, 2e-2)])
def test_packed_leaves_streamed_or_not_give_the_same(
    net: Net, model: Model, ids: torch.Tensor, tmp_path: Path, bits: int, most: float
) -> None:
    steps = (AsStored("vocabulary"), RoundToNearest("blocks", bits), Int8Activations())
    with opened(model, tmp_path / "whole", *steps) as session, torch.inference_mode():
        whole, wanted = session(ids), net(ids)
    place = Streamed(resident_bytes=0, slot_bytes=8192, num_slots=4, in_flight=2)
    with opened(model, tmp_path / "streamed", *steps, place) as session:
        assert session.plan.form.disk_bytes > 10 * WIDTH**2 * bits // 8
        streamed, again = session(ids), session(ids)
    for key in wanted:
        assert 1e-9 < lacking(whole[key], wanted[key]) < most
        assert torch.equal(whole[key], streamed[key])
        assert torch.equal(whole[key], again[key])


def test_weights_from_a_file_beside_a_module_on_meta(net: Net, ids: torch.Tensor, tmp_path: Path) -> None:
    state = {key: one for key, one in net.state_dict().items() if one.is_floating_point()}
    save_file(state, tmp_path / "net.safetensors")
    with torch.device("meta"):
        empty = Net()
    empty.own.order = net.own.order
    model = pintpot.adapt(empty, (ids,), weights=tmp_path / "net.safetensors", folder=tmp_path / "adapted")
    assert str(tmp_path / "net.safetensors") in model.source.files
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        torch.testing.assert_close(session(ids)["logits"], net(ids)["logits"], atol=1e-5, rtol=1e-4)
    with pytest.raises(BadInput, match="nothing has values for"):
        pintpot.adapt(empty, (ids,), folder=tmp_path / "none")
    with pytest.raises(UsageError, match="no safetensors"):
        pintpot.adapt(empty, (ids,), weights=tmp_path / "net.pt2", folder=tmp_path / "none")


def test_shared_weights_and_named_inputs(tmp_path: Path) -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.out, self.middle = (torch.nn.Embedding(32, 32), torch.nn.Linear(32, 32, bias=False), None)
            self.middle = torch.nn.Linear(32, 32)
            self.out.weight = self.table.weight

        def forward(self, ids: torch.Tensor, *, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.middle(self.table(ids)) * scale
            return self.out(x), x[:, ::2]

    torch.manual_seed(3)
    tied = Tied().eval()
    given = {"ids": torch.arange(8).reshape(1, 8), "scale": torch.full((1,), 0.5)}
    model = pintpot.adapt(tied, given, folder=tmp_path / "tied")
    assert [w.name for part in model.parts for w in part.weights() if len(w.shape) == 2] == [
        "table.head",
        "middle.weight",
    ]
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        for one, other in zip(session(**given), tied(**given), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        with pytest.raises(UsageError, match="recorded was"):
            session(ids=given["ids"][:, :4], scale=given["scale"])
        with pytest.raises(UsageError, match="takes ids, scale"):
            session(given["ids"])


class Numbers(torch.nn.Module):
    """It makes tensors of numbers while it runs, and changes one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        most = torch.tensor([float("inf"), 1.0] * 4)
        most[1] += x.shape[0]
        return torch.minimum(self.layer(x), most) * torch.tensor(3)


def test_tensors_made_of_numbers_are_made_again_each_time(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module, x = Numbers().eval(), 9 * torch.randn(2, 8)
    model = pintpot.adapt(module, x, folder=tmp_path / "numbers")
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(session(x), module(x), atol=1e-5, rtol=1e-5)


class Decides(torch.nn.Module):
    """What it computes depends on values, on chance, or on a tensor that is nobody's."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.layer, self.what, self.loose = torch.nn.Linear(8, 8), what, torch.ones(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.what == "values" and x.sum() > 0:
            return self.layer(x) * 2
        if self.what == "chance":
            return self.layer(torch.nn.functional.dropout(x, 0.5, training=True))
        return self.layer(x) + self.loose


@pytest.mark.parametrize(
    ("what", "why"), [("values", "depends on values"), ("chance", "draws at random"), ("nobody's", "register it")]
)
def test_what_cannot_be_recorded_is_refused_with_its_reason(what: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=why):
        pintpot.adapt(Decides(what), torch.ones(2, 8), folder=tmp_path / "none")


def test_nothing_to_pack_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no linear layer"):
        pintpot.adapt(torch.nn.LayerNorm(8), torch.ones(2, 8), folder=tmp_path / "none")


def test_a_budget_below_what_torch_takes_names_the_smallest(model: Model) -> None:
    with pytest.raises(DoesNotFit, match=r"smallest possible budget is \d+ MB .* Python and PyTorch"):
        pintpot.plan(model, memory="60MB")
    assert 100 * MB < module_process_bytes() < 1500 * MB
    with pytest.raises(UsageError, match="has no context"):
        pintpot.plan(model, context=512)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"call": "add.no_such_overload"}, "has no operator"),
        ({"args": '["/etc/passwd"]'}, "may not call with"),
    ],
)
def test_a_strangers_recording_calls_nothing_but_tensors(
    model: Model, tmp_path: Path, change: dict[str, str], why: str
) -> None:
    config = json.loads(json.dumps(model.parts[0].config))
    next(op for op in config["stages"][0]["ops"] if op.get("call") == "add.Tensor").update(change)
    forged = replace(model, parts=(replace(model.parts[0], config=config),))
    with pytest.raises(BadPack, match=why):
        opened(forged, tmp_path, AsStored())


def test_a_strangers_recording_looks_at_nothing_beyond_its_memory(model: Model, tmp_path: Path) -> None:
    config = json.loads(json.dumps(model.parts[0].config))
    op = next(op for op in config["stages"][0]["ops"] if op.get("call") == "add.Tensor")
    op["tensors"][0]["offset"] = 1 << 30
    with pytest.raises(UsageError, match="looks beyond"):
        planned(replace(model, parts=(replace(model.parts[0], config=config),)), AsStored())


def test_a_damaged_description_is_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / DESCRIPTION).write_text(json.dumps({"version": VERSION, "name": "x"}))
    with pytest.raises(BadFile, match="not what `adapt` writes"):
        pintpot.describe(tmp_path)
    assert pintpot.describe(model.source.path) == model


def test_planning_and_packing_a_recorded_module_bring_no_torch(model: Model, tmp_path: Path) -> None:
    code = (
        "import sys, pintpot\n"
        f"model = pintpot.describe({model.source.path!r})\n"
        f"pintpot.pack(model, pintpot.plan(model, memory='800MB'), {str(tmp_path / 'packed')!r})\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == ["False"]


def test_a_session_that_nobody_closes_ends_with_its_process_in_silence(model: Model, tmp_path: Path) -> None:
    folder = write_pack(model, planned(model, AsStored()), tmp_path / "pack")
    code = (
        "import torch\nfrom pathlib import Path\nfrom pintpot.machine.null import null_machine\n"
        "from pintpot.runtime.module import open_module\n"
        f"session = open_module(Path({str(folder)!r}), null_machine())\n"
        f"print(session(torch.zeros(2, {LENGTH}, dtype=torch.int64))['logits'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("torch.Size([2, 10])\n", "")
