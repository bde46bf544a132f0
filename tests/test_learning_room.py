"""Room while a model learns: what takes the place of what, what goes back to the system, and what is never copied."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from learning import HOW, drawn_sequences, folder_of, gathering, made
from tiny import Tiny, write_hf

from pintpot.budget import Train, Workload
from pintpot.contract.training import TrainingForm
from pintpot.nets._training import training_work
from pintpot.program.spec import Program
from pintpot.trainer.learned import add_grads

LAYERS = 4
TRAIN = Train(length=40, sequences=3, steps=1)
ROUNDING = """
import sys, pintpot, pintpot.trainer.rounding as module
made = module.rounded
def rounded(*asked):
    assert made(*asked).prepared is not None, "nothing was rounded"
    sys.exit(3 if "torch" in sys.modules else 4)
module.rounded = rounded
pintpot.tune(sys.argv[1], sys.argv[2], output=sys.argv[3], method="qlora", length=48, steps=2, threads=1)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(Tiny(family="qwen2", heads=4, kv_heads=2, layers=LAYERS), tmp_path_factory.mktemp("room"))


def program(folder: Path, how: TrainingForm, stage: str = "backward") -> Program:
    with made(folder, how, TRAIN) as ours:
        work = training_work(ours.model.part("language"), ours.form, Workload(train=TRAIN))
    return work.stage(stage).programs[0]


def insides(program: Program) -> dict[str, int]:
    """The buffers of what is saved for ways back, and their bytes."""
    return {name: prod(program.shape(name)) for op in program.ops for role, name in op.writes if role == "saved"}


@pytest.mark.parametrize("floats", ["f32", "bf16"])
@pytest.mark.parametrize("how", [HOW, TrainingForm(fused=True)], ids=["adapters", "all"])
def test_what_is_computed_again_takes_the_place_of_what_stayed(folder: Path, how: TrainingForm, floats: str) -> None:
    how = replace(how, computed_in=floats, at_once=TRAIN.sequences)
    for stays in range(1, LAYERS):
        among = replace(how, stays=stays)
        stayed, again = insides(program(folder, among, "forward")), insides(program(folder, among))
        # What a block begins with is held in float32, too, where it is computed again in bfloat16.
        begun = "qkv.saved" if floats == "bf16" else "nothing"
        first = {name for name in stayed if name.startswith(f"layers.{LAYERS - stays}.")}
        assert {name for name in again if name in stayed} == {name for name in first if not name.endswith(begun)}
        assert all(name.endswith(begun) for name in again if name not in stayed)


def test_what_is_larger_has_a_place_of_its_own(folder: Path) -> None:
    """Beside large adapters a block that is computed again begins with more than stayed of another one, in any part."""
    how = replace(HOW, rank=64, computed_in="bf16", at_once=1, stays=1)
    backward = program(folder, how)
    own = {name for name in insides(backward) if backward.by_name[name].life == "step"}
    assert own == {f"layers.{layer}.layers.{layer}.qkv.saved" for layer in range(LAYERS - 1)}


def test_freed_memory_goes_back_before_the_head(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with made(folder, HOW, TRAIN) as ours:
        network = ours.network
        loss = network._loss

        def looked(block: bool = True) -> None:
            told.append("block" if block else "other")

        def lost(*given: object) -> object:
            told.append("loss")
            return loss(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(network, "_between", looked)
        monkeypatch.setattr(network._passage, "_between", looked)
        monkeypatch.setattr(network, "_loss", lost)
        network.learn(drawn_sequences(3, 40, 384), gathering({}))
    # Of adapters of q gradients go back to the first block.
    assert told == ["block"] * LAYERS + ["other", "loss", "other"] + ["block"] * LAYERS + ["other"]


def test_gradients_of_parts_join_in_place() -> None:
    draw = torch.Generator().manual_seed(0)
    parts = [{name: torch.randn((8, 64), generator=draw).to(torch.bfloat16) for name in "ab"} for _ in range(3)]
    wanted = {name: sum((part[name].float() for part in parts), torch.zeros(8, 64)) for name in "ab"}
    found: dict[str, torch.Tensor] = {}
    places = []
    for part in parts:
        made = dict(part)
        add_grads(found, made, whole=False)
        assert not made, "each is gone before the next one joins"
        places.append({name: one.data_ptr() for name, one in found.items()})
    assert places[0] == places[1] == places[2]
    assert all(found[name].dtype == torch.float32 and torch.equal(found[name], wanted[name]) for name in wanted)


def test_gradients_of_a_whole_step_stay_as_they_came() -> None:
    grad = torch.ones((4, 64), dtype=torch.bfloat16)
    found: dict[str, torch.Tensor] = {}
    add_grads(found, {"a": grad}, whole=True)
    assert found["a"] is grad


def test_weights_are_rounded_before_pytorch_is_here(tmp_path: Path) -> None:
    write_hf(tmp_path / "m", Tiny(family="qwen2", heads=4, kv_heads=2, hidden=256, intermediate=512, tied=True))
    lines = ({"text": f"{n} and one more are {n + 1}, which is what everybody says of them."} for n in range(60))
    (tmp_path / "d.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = [sys.executable, "-c", ROUNDING, *(str(tmp_path / name) for name in ("m", "d.jsonl", "out"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 4, done.stderr
