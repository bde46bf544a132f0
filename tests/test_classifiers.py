"""Classifiers that learn: losses and gradients of transformers' own modules, plans, what is left, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from learning import gathering
from PIL import Image
from published import PROCESSOR, recorded, save
from torch.nn import functional

import pintpot
from pintpot.budget import Budget, Train, Workload
from pintpot.contract.form import source_form
from pintpot.contract.training import FIXED, TrainingForm
from pintpot.errors import BadInput, DoesNotFit, UsageError
from pintpot.machine.null import null_machine
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.nets._module_training import module_work
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.training import Asked, make_training_plan, training_work_of
from pintpot.program import ops as ops_of
from pintpot.program.layout import lay_out
from pintpot.trainer.classifier import Classifier
from pintpot.trainer.learned import Learned
from pintpot.trainer.loop import Event
from pintpot.trainer.pictures import Pictures, about_pictures, read_pictures
from pintpot.trainer.tune import Settings
from pintpot.trainer.weights import Weights

NAMES = ("dark", "light", "odd")
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: at for at, name in enumerate(NAMES)}}
SEEING = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [2, 1], "layer_type": "basic", "image_size": 32}
MODULES: dict[str, Any] = {
    "resnet": lambda: tf.ResNetForImageClassification(tf.ResNetConfig(**RESNET, **LABELS)),
    "vit": lambda: tf.ViTForImageClassification(tf.ViTConfig(**SEEING, **LABELS)),
    "dinov2": lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(**SEEING, use_swiglu_ffn=True, **LABELS)),
    "convnext": lambda: tf.ConvNextForImageClassification(
        tf.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 2], num_stages=2, image_size=32, **LABELS)
    ),
    "mobilenet": lambda: tf.MobileNetV2ForImageClassification(
        tf.MobileNetV2Config(depth_multiplier=0.25, image_size=32, **LABELS)
    ),
}
SHORT: dict[str, Any] = {"steps": 6, "sequences": 4, "threads": 1, "memory": "1.2GB"}
KEPT, AGAIN = TrainingForm(at_once=4, kept=True, fused=True), TrainingForm(at_once=2, fused=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three kinds, and their lines."""
    at, rng, lines = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), []
    for number in range(60):
        kind = number % 3
        picture = rng.integers(0, 90, (40, 40, 3)) + (160 if kind == 1 else 0)
        picture[:, ::2] = 255 - picture[:, ::2] if kind == 2 else picture[:, ::2]
        Image.fromarray(picture.astype(np.uint8)).save(at / f"{number}.png")
        lines.append({"image": f"{number}.png", "label": NAMES[kind] if number % 2 else kind})
    (at / "d.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return at


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def folder_of(kind: str, at: Path) -> Path:
    return at / kind if (at / kind).is_dir() else save(MODULES[kind](), at / kind, PROCESSOR)


def model_of(kind: str, at: Path) -> Model:
    """Recorded for four pictures, and for two and one."""
    made = at / f"{kind}.recorded"
    if made.is_dir():
        return pintpot.describe(str(made))
    return recorded(folder_of(kind, at), made, batch=4, fewer=1)


@contextmanager
def learner(model: Model, how: TrainingForm) -> Iterator[tuple[Classifier, Learned]]:
    form, train = replace(source_form(model), training=how), Train(1, 4, 2, of="pictures")
    work = module_work(model.parts[0], form, Workload(train=train))
    for program in work.programs():
        ops_of.check(program)
    with Store(model) as store:
        weights = Weights(model, store, form, ())
        learned = Learned.whole(form, weights)
        yield Classifier(model.parts[0], work, form, weights, learned), learned
        weights.close()


def theirs(module: Any, pictures: Pictures) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss and all gradients, by the publisher's module."""
    for one in module.parameters():
        one.requires_grad_(True)
    logits = module.eval()(pixel_values=torch.from_numpy(pictures.values())).logits
    loss = functional.cross_entropy(logits, torch.from_numpy(pictures.labels))
    loss.backward()
    return float(loss.detach()), {name: one.grad for name, one in module.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("how", [KEPT, AGAIN], ids=["kept", "computed again"])
@pytest.mark.parametrize("kind", MODULES)
def test_losses_and_gradients_are_the_publishers(kind: str, how: TrainingForm, folders: Path, place: Path) -> None:
    model = model_of(kind, folders)
    pictures = read_pictures(place / "d.jsonl", about_pictures(model.parts[0].config)).take(np.arange(3))
    module = type(MODULES[kind]()).from_pretrained(folder_of(kind, folders))
    loss, grads = theirs(module, pictures)
    found: dict[str, torch.Tensor] = {}
    with learner(model, how) as (network, learned):
        assert len(network.blocks) == 1 or not how.kept
        assert len(network.blocks) > 1 or how.kept
        assert network.learn(pictures, gathering(found)) == pytest.approx(loss, rel=1e-4)
        told = network.losses(pictures)
        assert told.shape == (2, 3)
        assert float(told[0].mean()) == pytest.approx(loss, rel=1e-4)
        assert not {name for name in learned.values if name.rpartition(".")[2] in FIXED}
    weights = {weight.name: weight for weight in model.parts[0].weights()}
    assert set(found) == set(learned.values)
    for name, grad in found.items():
        taps = weights[name].taps
        grad = grad.view(len(grad), taps, -1).transpose(1, 2) if taps > 1 else grad
        due = grads[name].flatten()
        assert torch.allclose(grad.reshape(-1), due, rtol=2e-3, atol=2e-5 * float(due.abs().max()) + 1e-7), name


def planned(model: Model, memory: int, sequences: int = 4, **asked: Any) -> Plan:
    train = Train(1, sequences, 10, 8, of="pictures")
    budget = Budget(memory, Workload(task="train", train=train))
    machine = null_machine()
    return make_training_plan(Question(model, machine, budget, shipped_priors(), torch_bytes=10**7), Asked(**asked))


def test_a_plan_says_what_holds_memory_and_survives_json(folders: Path) -> None:
    model = model_of("resnet", folders)
    plan = planned(model, 10**9)
    holders = {one.name: one.high for one in plan.cost.holders}
    values = sum(w.num_values for w in model.parts[0].weights() if w.name.rpartition(".")[2] not in FIXED)
    assert holders["optimizer states"] == pytest.approx(8 * values, rel=0.1)
    assert holders["kept activations"] > 0
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert lay_out(training_work_of(again)) == lay_out(training_work_of(plan))
    assert again.budget.workload.rate_unit == "pictures/s"
    assert [stage.name for stage in training_work_of(plan).stages] == ["backward", "ask"]


def test_where_memory_is_short_blocks_are_computed_again_and_fewer_pictures_at_once(folders: Path) -> None:
    model = model_of("resnet", folders)
    large = planned(model, 10**9)
    small = planned(model, large.smallest_bytes or 0)
    names = [{step.name: step for step in plan.steps} for plan in (large, small)]
    assert "Kept" in names[0]
    assert small.cost.memory_high <= (large.smallest_bytes or 0) < large.cost.memory_high
    assert small.cost.total_s.mid > large.cost.total_s.mid
    with pytest.raises(DoesNotFit, match="at least"):
        planned(model, (large.smallest_bytes or 0) - 1)


def test_it_learns_and_the_folder_is_a_model(folders: Path, place: Path, tmp_path: Path) -> None:
    folder, out = folder_of("resnet", folders), tmp_path / "out"
    asked = ("--steps", "40", "--sequences", "4", "--learning-rate", "0.01", "--threads", "1", "--memory", "1.2GB")
    command = [sys.executable, "-m", "pintpot", "tune", str(folder), str(place / "d.jsonl"), "-o", str(out), *asked]
    done = subprocess.run([*command, "--json"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    (_, before), *_, (_, after) = told["asked"]
    assert after < before - 0.2
    assert told["right"][-1][0] == 40
    assert told["right"][-1][1] > told["right"][0][1]
    assert told["measured"]["peak_bytes"] <= told["promised"]["memory_bytes"][1]
    assert "a picture" in (out / "tuning.html").read_text()
    about = about_pictures(pintpot.describe(str(folders / "resnet.recorded")).parts[0].config)
    held = read_pictures(place / "d.jsonl", about)
    module = tf.ResNetForImageClassification.from_pretrained(out).eval()
    with torch.no_grad():
        logits = module(torch.from_numpy(held.values())).logits
    assert float((logits.argmax(1).numpy() == held.labels).mean()) > 0.6
    came = tf.ResNetForImageClassification.from_pretrained(folder)
    for (name, one), other in zip(module.named_buffers(), came.buffers(), strict=True):
        assert torch.equal(one, other), name


def test_a_start_that_was_ended_goes_on_with_the_same_losses(folders: Path, place: Path, tmp_path: Path) -> None:
    class Enough(Exception):
        """Whoever watches has seen enough."""

    def stop(event: Event) -> None:
        if event.step == 4:
            raise Enough

    def started(out: str, happened: Any = None) -> pintpot.Tuned:
        kept = Settings(checkpoint=3, freeze=0.5)
        return pintpot.tune(
            folder_of("mobilenet", folders), place / "d.jsonl", output=tmp_path / out, settings=kept,
            happened=happened, **SHORT,
        )  # fmt: skip

    whole = started("whole")
    with pytest.raises(Enough):
        started("cut", stop)
    again = started("cut")
    assert again.began_at == 3
    assert (again.losses, again.asked, again.right) == (whole.losses, whole.asked, whole.right)
    assert (again.folder / "model.safetensors").read_bytes() == (whole.folder / "model.safetensors").read_bytes()


def test_a_recording_of_ones_own_learns_and_runs(place: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(inplace=True), torch.nn.Conv2d(8, 8, 3, groups=8),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3),
    )  # fmt: skip
    kind = {
        "name": "vision", "task": "classify", "labels": list(NAMES), "batch": 2, "size": [40, 40], "files": [],
        "memory_bytes": 10**7, "pictures": {"do_rescale": True, "rescale_factor": 1 / 255},
    }  # fmt: skip
    model = pintpot.adapt(module, torch.zeros(2, 3, 40, 40), kind=kind, folder=tmp_path / "own")
    out = pintpot.tune(model.source.path, place / "d.jsonl", output=tmp_path / "out", **SHORT)
    assert len(out.losses) == 6
    learned = pintpot.describe(str(out.folder))
    assert learned.parts[0].config == model.parts[0].config
    assert learned.source.files == (str((out.folder / "weights.safetensors").resolve()),)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nonsense", "line 3: not JSON"),
        ('{"image": "0.png"}', "line 3: has 'image'; 'image' and 'label' are wanted"),
        ('{"image": "none.png", "label": 0}', "line 3: there is no picture"),
        ('{"image": "d.jsonl", "label": 0}', "line 3: .* is no picture that PIL knows"),
        ('{"image": "0.png", "label": "grey"}', "line 3: the model has no class 'grey'; its 3 are dark, light, odd"),
        ('{"image": "0.png", "label": 3}', "line 3: the model has no class 3; they are numbered from 0 to 2"),
        ('{"image": "0.png", "label": true}', "line 3: 'label' is True, neither a name nor a number"),
    ],
)
def test_the_line_that_is_wrong_is_named(line: str, why: str, folders: Path, place: Path) -> None:
    good = (place / "d.jsonl").read_text().splitlines()[:2]
    (place / "bad.jsonl").write_text("\n".join([*good, line]))
    with pytest.raises(BadInput, match=why):
        read_pictures(place / "bad.jsonl", about_pictures(model_of("resnet", folders).parts[0].config))


def test_what_cannot_be_asked_of_pictures(folders: Path, place: Path, tmp_path: Path) -> None:
    for more in ({"method": "qlora"}, {"settings": Settings(sparse="2:4")}, {"arithmetic": "bf16"}):
        with pytest.raises(UsageError):
            pintpot.tune(folder_of("resnet", folders), place / "d.jsonl", output=tmp_path / "out", **{**SHORT, **more})
