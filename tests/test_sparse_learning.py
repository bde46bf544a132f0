"""Sparse models that learn: zeros where they belong, steps as plain PyTorch takes them, teachers, plans, restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from learning import drawn_sequences, folder_of, gathering, made
from safetensors.torch import load_file
from test_part_learns import plan
from tiny import Tiny, torch_model, write_hf

import pintpot
from pintpot.budget import Train
from pintpot.contract.training import TrainingForm
from pintpot.contract.tutor import Tutors
from pintpot.errors import Diverged, UsageError
from pintpot.kernels.torch.two_four import is_two_four, smaller_half, softened
from pintpot.model.names import hf_name
from pintpot.planner.plan import Plan
from pintpot.planner.training import training_work_of
from pintpot.techniques.sparsify.s_ste import Softened, SSte
from pintpot.techniques.sparsify.two_four import TwoFour, Zeros
from pintpot.techniques.train.square_head import Features, SquareHead
from pintpot.trainer.learned import Pace
from pintpot.trainer.packing import Sequences
from pintpot.trainer.tune import Settings

TINY = Tiny(family="qwen2", heads=4, kv_heads=2)
TRAIN = Train(length=40, sequences=3, steps=4)
EVERY = TrainingForm(at_once=2, fused=True, states="f32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(TINY, tmp_path_factory.mktemp("sparse"))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def soft(weight: torch.Tensor) -> torch.Tensor:
    """The paper's function, value by value."""
    groups = weight.view(-1, 4)
    second = groups.abs().sort(dim=1).values[:, 1:2]
    return (groups.sign() * (groups.abs() - second).clamp_min(0)).view(weight.shape)


def test_values_are_drawn_to_zero_by_the_second_smallest() -> None:
    weight = drawn(33, 64)
    weight[0, :8] = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, -2.0, 2.0, 0.0])
    assert torch.allclose(softened(weight), soft(weight), atol=1e-7)
    assert is_two_four(softened(weight))
    assert softened(weight)[0, :8].tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, -2.0, 2.0, 0.0]
    near = weight + 1e-6 * drawn(33, 64, seed=1)
    assert float((softened(near) - softened(weight)).abs().max()) < 3e-5


def test_the_smaller_half_is_masked() -> None:
    weight = drawn(9, 40)
    pruned = weight.masked_fill(smaller_half(weight), 0.0)
    kept = weight.view(-1, 4).abs().topk(2, dim=1).values.sum()
    assert is_two_four(pruned)
    assert not is_two_four(weight)
    assert float(pruned.abs().sum()) == pytest.approx(float(kept))
    assert smaller_half(torch.ones(1, 8)).tolist() == [[False, False, True, True] * 2]


def test_the_scale_is_the_one_of_the_least_distance() -> None:
    tutor, weight = Softened(), drawn(16, 32)
    tutor.begin({"layers.0.q": weight, "embed": weight, "layers.0.norm": weight[0]})
    assert tutor.tensors().keys() == {"s_ste.layers.0.q"}
    found, sparse = tutor.met("layers.0.q", weight), soft(weight)
    scales = torch.linspace(0.5, 3, 2001)
    best = min(scales.tolist(), key=lambda scale: float((weight - scale * sparse).square().sum()))
    assert torch.allclose(found, best * sparse, atol=5e-3)
    assert tutor.met("embed", weight) is weight
    # Fixed from then on.
    assert torch.allclose(tutor.met("layers.0.q", 2 * weight), 2 * found)
    with pytest.raises(Diverged, match=r"more than two of four"):
        Zeros("2:4").left("layers.0.q", weight)


class Reference:
    """transformers' model, and AdamW of PyTorch over copies of its weights, of which some meet rows pruned."""

    def __init__(self, folder: Path) -> None:
        self.model = torch_model(folder)
        self.own = dict(self.model.named_parameters())
        self.dense = {name: one.detach().clone() for name, one in self.own.items()}
        self.optimizer = torch.optim.AdamW(list(self.dense.values()), lr=1e-3, weight_decay=0.0, foreach=False)

    def prunes(self, name: str) -> bool:
        return "layers." in name and self.own[name].dim() == 2

    def step(self, sequences: Sequences, met: Any, graded: Any) -> float:
        with torch.no_grad():
            for name, dense in self.dense.items():
                self.own[name].copy_(met(name, dense) if self.prunes(name) else dense)
        ids = torch.from_numpy(sequences.tokens).long()
        logits = self.model(ids).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
        self.model.zero_grad()
        loss.backward()
        for name, dense in self.dense.items():
            grad = self.own[name].grad
            dense.grad = graded(name, grad) if self.prunes(name) else grad
        self.optimizer.step()
        return loss.item()


def taken(ours: Any, sequences: Sequences, steps: int = 4) -> list[float]:
    losses = []
    for at in range(steps):
        update = partial(ours.learned.update, pace=Pace(1e-3), step=at, steps=steps)
        losses.append(ours.network.learn(sequences, update))
    return losses


def test_steps_through_soft_thresholds_are_those_of_plain_pytorch(folder: Path) -> None:
    sequences, theirs = drawn_sequences(3, 40, TINY.vocab), Reference(folder)
    first = {name: one.clone() for name, one in theirs.dense.items()}
    scales = {name: (one * soft(one)).sum() / soft(one).square().sum() for name, one in first.items()
              if theirs.prunes(name)}  # fmt: skip
    wanted = [
        theirs.step(sequences, lambda name, one: scales[name] * soft(one), lambda _, grad: grad) for _ in range(4)
    ]
    with made(folder, EVERY, TRAIN, tutor=(tutor := Softened())) as ours:
        assert taken(ours, sequences) == pytest.approx(wanted, rel=2e-4)
        for name, value in ours.learned.values.items():
            dense = theirs.dense[hf_name(name, TINY.family)]
            assert float((value - dense).abs().max()) < 2e-4, name
            if "." in name and value.dim() == 2:
                assert is_two_four(tutor.left(name, value))
    assert wanted[-1] < wanted[0]


@pytest.mark.parametrize("pattern", ["2:4", "kept"])
def test_steps_around_zeros_are_those_of_plain_pytorch(folder: Path, tmp_path: Path, pattern: str) -> None:
    sequences, theirs = drawn_sequences(3, 40, TINY.vocab), Reference(folder)
    zeros = {}
    for name, dense in theirs.dense.items():
        if theirs.prunes(name):
            drawn_zeros = drawn(*dense.shape, seed=len(name)).abs() < 0.5
            zeros[name] = smaller_half(dense) if pattern == "2:4" else drawn_zeros
            dense.masked_fill_(zeros[name], 0.0)
    if pattern == "kept":  # a model that came with zeros here and there
        with torch.no_grad():
            for name, dense in theirs.dense.items():
                theirs.own[name].copy_(dense)
        theirs.model.save_pretrained(tmp_path / "holes", safe_serialization=True)
        for path in folder.iterdir():
            if not (tmp_path / "holes" / path.name).exists():
                (tmp_path / "holes" / path.name).write_bytes(path.read_bytes())
        folder = tmp_path / "holes"
    wanted = [
        theirs.step(sequences, lambda _, one: one, lambda name, grad: grad.masked_fill(zeros[name], 0.0))
        for _ in range(4)
    ]
    with made(folder, EVERY, TRAIN, tutor=Zeros(pattern)) as ours:
        assert taken(ours, sequences) == pytest.approx(wanted, rel=2e-4)
        for name, value in ours.learned.values.items():
            theirs_own = hf_name(name, TINY.family)
            if theirs_own in zeros:
                assert torch.equal(value == 0, zeros[theirs_own]), name


def test_what_a_teacher_adds_is_the_gradient_of_its_loss(folder: Path) -> None:
    sequences, student, dense = drawn_sequences(3, 40, TINY.vocab), torch_model(folder), torch_model(folder)
    with torch.no_grad():
        for name, own in student.named_parameters():
            if "layers." in name and own.dim() == 2:
                own.masked_fill_(smaller_half(own), 0.0)
    ids, kept = torch.from_numpy(sequences.tokens).long(), {}
    for who, model in (("student", student), ("dense", dense)):
        kept[who] = []
        for layer in model.model.layers:
            layer.register_forward_hook(lambda _, __, out, to=kept[who]: to.append(out[0] if out is tuple else out))
    logits = student(ids).logits[:, :-1].flatten(0, 1)
    with torch.no_grad():
        dense(ids)
    loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
    features = sum(
        ((s - t).square().mean(-1) / t.square().mean(-1)).mean()
        for s, t in zip(kept["student"], kept["dense"], strict=True)
    )
    (loss + 0.5 * features).backward()
    tutor = Tutors((Zeros("2:4"), Features(0.5)))
    with (
        made(folder, replace(EVERY, only=("",)), TRAIN) as teacher,
        made(folder, EVERY, TRAIN, tutor=tutor, teacher=teacher.network) as ours,
    ):
        grads: dict[str, torch.Tensor] = {}
        assert ours.network.learn(sequences, gathering(grads)) == pytest.approx(loss.item(), rel=1e-5)
        for name, grad in grads.items():
            wanted = student.get_parameter(hf_name(name, TINY.family)).grad
            assert torch.allclose(grad, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())), name


def test_plans_price_what_pruning_and_teaching_take(folder: Path) -> None:
    full = plan(folder, method="full")
    soft_plan, taught = plan(folder, method="full", also=(SSte(),)), plan(folder, method="full", also=(SquareHead(),))
    assert soft_plan.cost.step_s.mid > full.cost.step_s.mid
    assert soft_plan.smallest_bytes > full.smallest_bytes
    pruned = [op.read("weight") for op in training_work_of(soft_plan).stage("forward").programs[0].ops
              if op.kind == "prune"]  # fmt: skip
    assert len(pruned) == len(set(pruned)) == 7 * TINY.layers
    assert [stage.name for stage in training_work_of(taught).stages][:3] == ["teacher", "forward", "backward"]
    sizes = [{one.name: one.high for one in found.cost.holders} for found in (full, taught)]
    assert sizes[1]["kept activations"] - sizes[0]["kept activations"] == 4 * 120 * TINY.hidden * (TINY.layers + 1)
    assert taught.cost.stage("teacher").disk_bytes > 0
    assert taught.cost.step_s.mid > full.cost.step_s.mid
    for found in (soft_plan, taught, plan(folder, method="full", also=(TwoFour(),))):
        assert Plan.from_json(json.loads(found.dumps())) == found
    for also in (SSte(), TwoFour()):
        with pytest.raises(UsageError, match="adapters would fill zeros"):
            plan(folder, method="lora", also=(also,))


class Enough(Exception):
    """Whoever watches has seen enough."""


def texts() -> Iterator[str]:
    return (json.dumps({"text": f"{n} and one is {n + 1}, which is more than {n}."}) + "\n" for n in range(60))


@pytest.mark.parametrize("sparse", ["s-ste", "2:4"])
def test_what_is_left_is_two_of_four_also_after_a_stop(tmp_path: Path, sparse: str) -> None:
    write_hf(tmp_path / "m", replace(TINY, tied=True))
    (tmp_path / "d.jsonl").write_text("".join(texts()))

    def tuned(out: str, stop_after: int | None = None) -> pintpot.Tuned:
        def watch(event: Any) -> None:
            if event.step == stop_after:
                raise Enough

        settings = Settings(learning_rate=1e-3, checkpoint=2, sparse=sparse, distill=True)
        return pintpot.tune(
            tmp_path / "m", tmp_path / "d.jsonl", output=tmp_path / out, method="full", length=48, threads=1, steps=6,
            happened=watch, arithmetic="float32", settings=settings,
        )  # fmt: skip

    whole = tuned("whole")
    with pytest.raises(Enough):
        tuned("halved", stop_after=5)
    halved = tuned("halved")
    assert halved.began_at == 4
    assert (halved.losses, halved.asked) == (whole.losses, whole.asked)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "halved"))
    for name, value in one.items():
        assert torch.equal(value, other[name])
        assert value.dim() == 1 or is_two_four(value) == ("layers." in name)
    assert whole.asked[-1][1] < whole.asked[0][1]


def counted(num: int, seed: int) -> Sequences:
    """Sequences that go round in steps of their own: what a small network can learn, and then be pruned of."""
    draw = torch.Generator().manual_seed(seed)
    starts, steps = (torch.randint(low, 24, (num, 1), generator=draw) for low in (0, 1))
    made_of = drawn_sequences(num, 40, TINY.vocab)
    tokens = ((starts + steps * torch.arange(40)) % 24).numpy().astype(made_of.tokens.dtype)
    targets = made_of.targets.copy()
    targets[:, :-1] = tokens[:, 1:]
    return replace(made_of, tokens=tokens, targets=targets)


def test_a_teacher_brings_back_more_of_what_pruning_took(tmp_path: Path) -> None:
    """The dense network is taught first; then equal steps on few examples, with it beside them and without."""
    folder = folder_of(TINY, tmp_path)
    held, few = counted(32, seed=1), counted(6, seed=2)
    with made(folder, replace(EVERY, at_once=16), replace(TRAIN, sequences=16)) as dense:
        for at in range(150):
            update = partial(dense.learned.update, pace=Pace(4e-3), step=at, steps=150)
            dense.network.learn(counted(16, seed=100 + at), update)
        before = float(dense.network.losses(held).mean())
        model = torch_model(folder)
        with torch.no_grad():
            for name, value in dense.learned.values.items():
                model.get_parameter(hf_name(name, TINY.family)).copy_(value)
    model.save_pretrained(folder, safe_serialization=True)
    found = {}
    for way in ("pruned", "alone", "taught"):
        tutor = Tutors((Zeros("2:4"), Features(1.0)))
        with (
            made(folder, replace(EVERY, only=("",)), TRAIN) as teacher,
            made(folder, EVERY, TRAIN, tutor=tutor, teacher=teacher.network if way == "taught" else None) as ours,
        ):
            taken(ours, few, steps=0 if way == "pruned" else 30)
            found[way] = float(ours.network.losses(held).mean())
    assert before < found["taught"] < found["alone"]
    assert found["taught"] < found["pruned"]
