"""Parts of a model learn: gradients are those of the whole, what rests keeps nothing; plans and restarts know it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from learning import drawn_sequences, folder_of, gathering, made
from safetensors.torch import load_file
from tiny import Tiny, torch_model, write_hf

import pintpot
from pintpot.budget import Budget, Train, Workload
from pintpot.contract.form import Form, source_form
from pintpot.contract.training import TrainingForm
from pintpot.errors import DoesNotFit, NotApplicable, UsageError
from pintpot.machine.null import null_machine
from pintpot.model.names import hf_name
from pintpot.model.read import describe
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.training import Asked, make_training_plan, training_work_of
from pintpot.program.layout import lay_out
from pintpot.techniques.train.slim_fit import MOST_WINDOWS, SAMPLED, STILL, Dynamics, SlimFit
from pintpot.techniques.train.sparse_backward import SparseBackward
from pintpot.trainer.tune import Settings

TINY = Tiny(family="qwen2", heads=4, kv_heads=2, layers=4)
TRAIN = Train(length=40, sequences=3, steps=40)
EVERY = TrainingForm(at_once=2, fused=True, states="f32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(TINY, tmp_path_factory.mktemp("parts"))


def form_of(folder: Path, how: TrainingForm = EVERY) -> Form:
    return replace(source_form(describe(str(folder))), training=how)


def named(folder: Path, learn: str) -> set[str]:
    return set(SparseBackward(learn=learn).names(form_of(folder)))


def test_words_name_parts(folder: Path) -> None:
    every = {weight.name for weight in form_of(folder).weights}
    assert named(folder, "last:1") == {name for name in every if name.startswith("layers.3.")}
    assert named(folder, "layers.3,norm") == named(folder, "last:1") | {"norm"}
    assert named(folder, "last:2/q") == {"layers.2.q", "layers.3.q"}
    assert named(folder, "biases") == {name for name in every if name.endswith("_bias")}
    kinds = {name.rpartition(".")[2] for name in named(folder, "attention")}
    assert kinds == {"q", "k", "v", "o", "q_bias", "k_bias", "v_bias"}
    assert named(folder, "norms") == {name for name in every if name.endswith("norm")}
    assert named(folder, "blocks") == {name for name in every if "." in name}


@pytest.mark.parametrize("learn", ["last:0", "last:x", "layers.9", "telepathy", ""])
def test_what_names_nothing_is_refused(folder: Path, learn: str) -> None:
    with pytest.raises(NotApplicable):
        SparseBackward(learn=learn).check(describe(str(folder)), form_of(folder))


def test_an_adapter_beside_nothing_is_refused(folder: Path) -> None:
    form = form_of(folder, TrainingForm(rank=4, alpha=8.0, roles=("q",)))
    with pytest.raises(NotApplicable, match="adapter"):
        SparseBackward(learn="norms").check(describe(str(folder)), form)


@pytest.mark.parametrize("learn", ["last:2", "biases", "last:1/attention,norm", "head", "embed"])
def test_gradients_of_a_part_are_those_of_transformers(folder: Path, learn: str) -> None:
    how = replace(EVERY, only=SparseBackward(learn=learn).names(form_of(folder)))
    sequences, model = drawn_sequences(3, 40, TINY.vocab), torch_model(folder)
    ids = torch.from_numpy(sequences.tokens).long()
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).backward()
    with made(folder, how, TRAIN) as ours:
        found: dict[str, torch.Tensor] = {}
        ours.network.learn(sequences, gathering(found))
        assert set(found) == set(how.only) == set(ours.learned.values)
        for name, grad in found.items():
            wanted = model.get_parameter(hf_name(name, TINY.family)).grad
            assert torch.allclose(grad, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())), name


def test_blocks_that_rest_in_a_step_have_no_gradients(folder: Path) -> None:
    how = replace(EVERY, only=SparseBackward(learn="blocks").names(form_of(folder)))
    sequences = drawn_sequences(3, 40, TINY.vocab)
    with made(folder, how, TRAIN) as ours:
        whole: dict[str, torch.Tensor] = {}
        part: dict[str, torch.Tensor] = {}
        loss = ours.network.learn(sequences, whole.update)
        assert ours.network.learn(sequences, part.update, frozenset({"layers.0", "layers.2"})) == loss
    assert {name.split(".")[1] for name in part} == {"1", "3"}
    assert all(torch.equal(grad, whole[name]) for name, grad in part.items())


def plan(folder: Path, memory: int = 2_000_000_000, steps: int = TRAIN.steps, **asked: Any) -> Plan:
    budget = Budget(memory, Workload(task="train", train=replace(TRAIN, steps=steps)))
    question = Question(describe(str(folder)), null_machine(), budget, shipped_priors(), torch_bytes=200_000_000)
    return make_training_plan(question, Asked(arithmetic="float32", **asked))


def held(found: Plan) -> dict[str, int]:
    return {holder.name: holder.high for holder in found.cost.holders}


def test_a_plan_of_a_part_holds_less_and_takes_less_time(folder: Path) -> None:
    whole, part = plan(folder, method="full"), plan(folder, method="full", learn="last:1")
    assert [str(step) for step in part.steps][2] == "SparseBackward(learn=last:1)"
    most, least = held(whole), held(part)
    learning = sum(w.num_values for w in describe(str(folder)).part("language").weights() if "layers.3." in w.name)
    assert least["optimizer states"] == pytest.approx(8 * learning, rel=0.02)
    assert least["gradients"] < most["gradients"] / 10
    # What one block begins with and its inside, what it leaves, and gradients of that; of the whole model four of them.
    assert 3 * least["kept activations"] < most["kept activations"]
    assert part.cost.step_s.mid < 0.6 * whole.cost.step_s.mid
    backward = training_work_of(part).stage("backward").programs[0]
    assert [segment.slot for segment in backward.segments] == ["head", "layers.3"]
    again = Plan.from_json(json.loads(part.dumps()))
    assert again == part
    assert lay_out(training_work_of(again)) == lay_out(training_work_of(part))


def test_all_of_it_may_rest_on_disk(folder: Path) -> None:
    part = plan(folder, method="full", learn="last:1")
    less = plan(folder, part.smallest_bytes, method="full", learn="last:1")
    assert less.cost.stage("forward").disk_bytes > 0
    rows = {weight.name: weight.ram_rows for weight in less.form.weights if weight.is_matrix}
    assert not any(rows.values())
    # What learns is written, and nothing else is.
    learning = sum(prod(w.shape) for w in less.form.weights if w.is_matrix and w.name.startswith("layers.3."))
    backward = less.cost.stage("backward")
    assert 6 * learning < backward.written_bytes / backward.replays < 13 * learning


def test_as_many_of_the_last_blocks_as_fit(folder: Path) -> None:
    whole = plan(folder, method="full")
    assert plan(folder, method="full", learn="auto").steps == whole.steps
    found = plan(folder, whole.smallest_bytes - 1, method="full", learn="auto")
    assert any(str(step) == "SparseBackward(learn=last:2)" for step in found.steps)
    with pytest.raises(DoesNotFit, match="--learn last:2 fits"):
        plan(folder, whole.smallest_bytes - 1, method="full")


def test_freezing_is_priced_from_its_second_window_on(folder: Path) -> None:
    whole, some = plan(folder, method="full"), plan(folder, method="full", also=(SlimFit(),))
    assert [stage.name for stage in training_work_of(some).stages] == ["forward", "backward", STILL, "update", "ask"]
    assert (some.cost.stage("backward").replays, some.cost.stage(STILL).replays) == (10, 30)
    assert some.cost.stage(STILL).each_s.mid < whole.cost.stage("backward").each_s.mid
    parts = (some.cost.stage(name).seconds.mid for name in ("forward", "backward", STILL, "update"))
    assert some.cost.step_s.mid == pytest.approx(sum(parts) / 40)
    assert Plan.from_json(json.loads(some.dumps())) == some
    short = plan(folder, steps=10, method="full", also=(SlimFit(),))
    assert all(stage.name != STILL for stage in short.cost.stages)
    with pytest.raises(UsageError, match="no gradients that freezing could save"):
        plan(folder, method="zeroth", also=(SlimFit(),))


def moved_by(values: dict[str, torch.Tensor], *by: float) -> None:
    for value, share in zip(values.values(), by, strict=True):
        value.mul_(1 + share)


def test_the_least_moved_are_frozen_and_looked_at_again() -> None:
    values = {f"layers.{at}.q": torch.full((3, 5), at + 1.0) for at in range(4)}
    tutor = Dynamics(share=0.5, window=2)
    tutor.begin(values)
    assert tutor.resting(0) == tutor.resting(1) == frozenset()
    moved_by(values, 0.3, 0.1, 0.02, 0.2)
    assert tutor.resting(2) == tutor.resting(3) == {"layers.1", "layers.2"}
    state = tutor.tensors()
    assert state["slimfit.moved"].tolist() == pytest.approx([0.3, 0.1, 0.02, 0.2], rel=1e-5)
    # Whoever moves less than what is frozen did when it last moved takes its place.
    moved_by(values, 0.05, 0.0, 0.0, 0.2)
    assert tutor.resting(4) == {"layers.0", "layers.2"}
    moved_by(values, 0.0, 0.04, 0.0, 0.2)
    assert tutor.resting(6) == {"layers.1", "layers.2"}
    # After so many windows in a row what is frozen is measured again.
    assert int(state["slimfit.windows"][2]) == MOST_WINDOWS
    moved_by(values, 0.06, 0.0, 0.0, 0.2)
    assert tutor.resting(8) == {"layers.0", "layers.1"}
    moved_by(values, 0.0, 0.0, 0.5, 0.2)
    assert "layers.2" not in tutor.resting(10)
    assert float(state["slimfit.moved"][2]) == pytest.approx(0.5, rel=1e-5)


def test_large_tensors_are_sampled() -> None:
    value = torch.ones(3 * SAMPLED + 5)
    tutor = Dynamics(share=0.5, window=1)
    tutor.begin({"layers.0.q": value, "layers.1.q": torch.ones(4)})
    assert tutor.tensors()["slimfit.layers.0.q"].numel() <= SAMPLED
    value.mul_(1.5)
    assert tutor.resting(1) == {"layers.1"}
    assert float(tutor.tensors()["slimfit.moved"][0]) == pytest.approx(0.5)


class Enough(Exception):
    """Whoever watches has seen enough."""


def tuned(at: Path, out: str, stop_after: int | None = None, **asked: Any) -> pintpot.Tuned:
    def watch(event: Any) -> None:
        if event.step == stop_after:
            raise Enough

    settings = Settings(learning_rate=1e-3, checkpoint=3, freeze=asked.pop("freeze", 0.0))
    return pintpot.tune(
        at / "m", at / "d.jsonl", output=at / out, length=48, threads=1, happened=watch, arithmetic="float32",
        settings=settings, **asked,
    )  # fmt: skip


def texts() -> Iterator[str]:
    return (json.dumps({"text": f"{n} and one is {n + 1}, which is more than {n}."}) + "\n" for n in range(60))


def test_a_start_that_was_ended_freezes_the_same_blocks(tmp_path: Path) -> None:
    write_hf(tmp_path / "m", replace(TINY, tied=True))
    (tmp_path / "d.jsonl").write_text("".join(texts()))
    asked: dict[str, Any] = {"method": "full", "freeze": 0.5, "learn": "last:3", "steps": 23}
    whole = tuned(tmp_path, "whole", **asked)
    with pytest.raises(Enough):
        tuned(tmp_path, "halved", stop_after=14, **asked)
    halved = tuned(tmp_path, "halved", **asked)
    assert halved.began_at == 12
    assert (halved.losses, halved.asked) == (whole.losses, whole.asked)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "halved"))
    before = load_file(tmp_path / "m" / "model.safetensors")
    changed = {name for name in one if not torch.equal(one[name], before[name].float())}
    assert {name.split(".")[2] for name in changed} == {"1", "2", "3"}
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert whole.asked[-1][1] < whole.asked[0][1]


def test_adapters_of_some_blocks_say_where_they_are(tmp_path: Path) -> None:
    write_hf(tmp_path / "m", replace(TINY, tied=True))
    (tmp_path / "d.jsonl").write_text("".join(texts()))
    tuned(tmp_path, "some", method="lora", learn="last:1", steps=2)
    told = json.loads((tmp_path / "some" / "adapter_config.json").read_text())["target_modules"]
    assert told == [f"model.layers.3.self_attn.{name}_proj" for name in "qv"]
    assert len(load_file(tmp_path / "some" / "adapter_model.safetensors")) == 4
