"""Models of several parts, each of its own family: one plan, one pack, one budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from modules import MB, opened, planned
from tiny import write_hf
from tiny_hf import Tiny
from torch import nn

import pintpot
from pintpot.errors import BadFile, BadInput, UnsupportedModel
from pintpot.model.joined import PARTS, write_parts
from pintpot.model.spec import Model
from pintpot.nets import work_of
from pintpot.packer.manifest import read_manifest
from pintpot.packer.pack import write_pack
from pintpot.packer.packed_model import packed_model
from pintpot.planner.plan import Plan
from pintpot.planner.rebuild import rebuild_work
from pintpot.techniques.place.streamed import Streamed
from pintpot.techniques.quantize.as_stored import AsStored

WIDTH, LENGTH = 64, 6


class Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 3 * WIDTH), nn.GELU(), nn.Linear(3 * WIDTH, WIDTH))
        self.register_buffer("order", torch.randperm(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x).index_select(-1, self.order)


X = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def nets() -> tuple[Net, Net]:
    return Net(1).eval(), Net(2).eval()


@pytest.fixture(scope="module")
def folder(nets: tuple[Net, Net], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for name, net in zip(("reader", "writer"), nets, strict=True):
        pintpot.adapt(net, X, folder=root / name)
    write_parts(root, "both", {name: root / name for name in ("reader", "writer")}, about={"steps": 3})
    return root


def test_parts_are_one_model_with_names_of_their_own(folder: Path) -> None:
    model = pintpot.describe(folder)
    assert [part.name for part in model.parts] == ["reader", "writer"]
    names = [weight.name for part in model.parts for weight in part.weights()]
    assert "reader.layers.0.weight" in names
    assert len(names) == len(set(names)) == 8
    assert model.num_values == 2 * (6 * WIDTH**2 + 4 * WIDTH)
    plan = planned(model, AsStored())
    assert [stage.name for stage in plan.cost.stages] == ["reader.forward", "writer.forward"]
    assert Plan.from_json(plan.to_json()) == plan
    work = rebuild_work(plan)
    one, other = (set(program.by_name) for program in work.programs())
    assert not one & other
    assert work == work_of(model.parts, plan.form, plan.budget.workload)


def test_parts_run_from_one_pack(nets: tuple[Net, Net], folder: Path, tmp_path: Path) -> None:
    model = pintpot.describe(folder)
    place = Streamed(resident_bytes=0, slot_bytes=16384, num_slots=4, in_flight=2)
    for name, steps in (("whole", (AsStored(),)), ("streamed", (AsStored(), place))):
        with opened(model, tmp_path / name, *steps) as session, torch.inference_mode():
            for _ in range(2):
                read = session.stage("reader.forward")(X)
                torch.testing.assert_close(read, nets[0](X), atol=1e-5, rtol=1e-4)
                written = session.stage("writer.forward")(read)
                torch.testing.assert_close(written, nets[1](read), atol=1e-5, rtol=1e-4)
            for _ in range(3):
                assert torch.equal(session.stage("writer.forward")(read), written)
    manifest, _ = read_manifest(tmp_path / "whole" / "pack")
    packed = packed_model(manifest)
    assert [(p.name, p.prefix, [b.name for b in p.blocks]) for p in packed.parts] == [
        (p.name, p.prefix, [b.name for b in p.blocks]) for p in model.parts
    ]


def test_peak_memory_is_the_worst_part_and_all_weights(folder: Path) -> None:
    both, alone = (planned(one, AsStored()) for one in (pintpot.describe(folder), pintpot.describe(folder / "reader")))
    assert both.form.weight_bytes == 2 * alone.form.weight_bytes
    mine, other = ({holder.name: holder.high for holder in plan.cost.holders} for plan in (both, alone))
    assert all(mine[name] == other[name] for name in ("interpreter and libraries", "torch"))
    assert other["buffers"] < mine["buffers"] < 2 * other["buffers"]


def test_a_proof_of_parts(folder: Path, tmp_path: Path) -> None:
    model = pintpot.describe(folder)
    packed = pintpot.pack(model, pintpot.plan(model, memory="800MB"), tmp_path / "packed")
    proof = pintpot.prove(packed, runs=1)
    assert {one.output for one in proof.likeness} == {"reader.forward", "writer.forward"}
    assert proof.row("degradation").holds
    assert proof.row("memory").holds


def test_a_recorded_part_beside_a_language(folder: Path, tmp_path: Path) -> None:
    language = write_hf(tmp_path / "language", Tiny(hidden=WIDTH, heads=1, head_dim=WIDTH, kv_heads=1, layers=2))
    write_parts(tmp_path, "seeing", {"hearing": folder / "reader", "language": language}, kind="llm")
    model = pintpot.describe(tmp_path)
    assert model.needs_torch
    assert model.language is not None
    plan = planned(model, AsStored(), memory=900 * MB)
    assert [stage.name for stage in plan.cost.stages] == ["hearing.forward", "prefill", "decode"]
    assert {"hearing.layers.0.weight", "layers.0.q", "embed"} <= plan.form.weights.names
    holders = [holder.name for holder in plan.cost.holders]
    assert {"torch", "tokenizer", "cache"} <= set(holders)
    packed = write_pack(model, plan, tmp_path / "packed")
    manifest, _ = read_manifest(packed)
    assert (packed / "tokenizer.json").is_file()
    assert [part.family for part in manifest.plan.parts] == ["adapted", "llama"]
    place = Streamed(resident_bytes=0, slot_bytes=65536, num_slots=4, in_flight=2)
    write_pack(model, planned(model, AsStored(), place, memory=900 * MB), tmp_path / "streamed")


def test_what_cannot_be_one_model_is_refused(folder: Path, tmp_path: Path) -> None:
    language = write_hf(tmp_path / "language", Tiny())
    write_parts(tmp_path, "odd", {"writer": language})
    with pytest.raises(UnsupportedModel, match="is called language"):
        pintpot.describe(tmp_path)
    (tmp_path / PARTS).write_text('{"version": 1, "parts": [{"name": "../x", "path": "y"}]}')
    with pytest.raises(BadFile, match="names its parts"):
        pintpot.describe(tmp_path)
    plan = planned(pintpot.describe(folder), AsStored())
    forged: Model = replace(pintpot.describe(folder / "reader"))
    twice = replace(plan, parts=(plan.parts[0], replace(plan.parts[0], name="again")))
    with pytest.raises(BadInput, match="begin with"):
        _check(twice)
    lacking = replace(plan, parts=plan.parts[:1], form=planned(forged, AsStored()).form)
    with pytest.raises(BadInput, match="nobody has the weights"):
        _check(lacking)


def _check(plan: Plan) -> None:
    from pintpot.nets import check_parts

    check_parts(plan.parts, plan.form)
