"""Filtered convolutions: gradients as plain ones have them of means over patches, what is kept, and plans of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learning import gathering
from published import PROCESSOR, recorded, save
from test_classifiers import MODULES, place, planned, theirs
from torch.nn import functional

import pintpot
from pintpot.budget import Train, Workload
from pintpot.contract.form import source_form
from pintpot.contract.slots import Slots
from pintpot.contract.training import TrainingForm
from pintpot.errors import UsageError
from pintpot.kernels.torch.filtered import bounded, filtered_convolution
from pintpot.model.store import Store
from pintpot.nets._module_training import module_work
from pintpot.program.filtering import patch_of
from pintpot.techniques.train.gradient_filter import GradientFilter
from pintpot.trainer.classifier import Classifier
from pintpot.trainer.learned import Learned
from pintpot.trainer.pictures import about_pictures, read_pictures
from pintpot.trainer.tune import Settings
from pintpot.trainer.weights import Weights

__all__ = ["place"]

# kernel, step, padding, dilation, groups, (height, width), r
SHAPES = [
    (3, 1, 1, 1, 1, (8, 8), 2), (3, 2, 1, 1, 1, (16, 16), 4), (1, 1, 0, 1, 1, (8, 12), 4), (1, 2, 0, 1, 1, (16, 16), 2),
    (1, 1, 1, 1, 1, (6, 6), 2), (3, 1, 1, 1, 4, (8, 8), 2), (5, 1, 2, 1, 1, (12, 12), 4), (3, 1, 2, 2, 1, (12, 12), 3),
    (7, 2, 3, 1, 1, (28, 28), 7), (3, 1, 0, 1, 1, (10, 10), 4), (2, 2, 0, 1, 1, (8, 8), 2), (3, 1, 1, 1, 8, (8, 7), 2),
    (3, 2, 1, 1, 1, (15, 15), 2), (3, 1, 1, 1, 1, (7, 7), 2), (3, 1, 1, 1, 1, (8, 8), 1),
]  # fmt: skip


def spread(grad: torch.Tensor, patch: tuple[int, ...]) -> torch.Tensor:
    """Means over patches, there at each of their places."""
    small = functional.avg_pool2d(grad, patch)
    return small.repeat_interleave(patch[0], 2).repeat_interleave(patch[1], 3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_gradients_are_exact_for_means_over_patches(shape: Any, with_bias: bool) -> None:
    kernel, step, around, dilation, groups, size, r = shape
    torch.manual_seed(0)
    x = torch.randn(2, 8, *size, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(8, 8 // groups, kernel, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(8, dtype=torch.float64, requires_grad=True) if with_bias else None
    learns = [x, weight, *([] if bias is None else [bias])]
    plain = functional.conv2d(x, weight, bias, step, around, dilation, groups)
    own = filtered_convolution(x, weight, bias, (step,) * 2, (around,) * 2, (dilation,) * 2, groups, r, with_bias)
    assert torch.equal(own, plain)
    grad = torch.randn_like(plain)
    patch = patch_of(plain.shape[2:], weight.shape[2:], r)
    due = torch.autograd.grad(plain, learns, spread(grad, patch), retain_graph=True)
    found = torch.autograd.grad(own, learns, grad, retain_graph=True)
    for one, other in zip(due, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    # Of gradients that are the same all over a patch nothing is lost; of others what they are over the plain ones is.
    same = spread(grad, patch)
    for one, other in zip(
        torch.autograd.grad(plain, learns, same, retain_graph=True), torch.autograd.grad(own, learns, same), strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
    if patch == (1, 1):
        for one, other in zip(torch.autograd.grad(plain, learns, grad), found, strict=True):
            assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)


def test_what_lies_between_bounds_goes_back_as_ever() -> None:
    x = torch.tensor([-1.0, 0.0, 0.5, 6.0, 7.0], requires_grad=True)
    grad = torch.arange(1.0, 6.0)
    for own, plain in ((bounded(x), functional.relu(x)), (bounded(x, 0.0, 6.0), functional.hardtanh(x, 0.0, 6.0))):
        assert torch.equal(own, plain)
        made = (torch.autograd.grad(one, x, grad)[0] for one in (own, plain))
        assert torch.equal(*made)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(MODULES["resnet"](), tmp_path_factory.mktemp("filtered") / "resnet", PROCESSOR)


def test_a_network_learns_by_the_same_gradients(folder: Path, place: Path, tmp_path: Path) -> None:
    model = recorded(folder, tmp_path / "recorded", batch=4, fewer=1)
    pictures = read_pictures(place / "d.jsonl", about_pictures(model.parts[0].config)).take(np.arange(4))
    module = type(MODULES["resnet"]()).from_pretrained(folder)

    def means(layer: torch.nn.Conv2d, _: Any, out: torch.Tensor) -> None:
        out.register_hook(lambda grad: spread(grad, patch_of(out.shape[2:], layer.kernel_size, 2)))

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(means)
    loss, grads = theirs(module, pictures)
    how, train = TrainingForm(at_once=4, kept=True, fused=True, patch=2), Train(1, 4, 2, of="pictures")
    form, slots, found = replace(source_form(model), training=how), Slots(), dict[str, torch.Tensor]()
    GradientFilter(patch=2).install(slots)
    work = module_work(model.parts[0], form, Workload(train=train))
    with Store(model) as store:
        weights = Weights(model, store, form, ())
        network = Classifier(model.parts[0], work, form, weights, Learned.whole(form, weights), slots.calls)
        assert network.learn(pictures, gathering(found)) == pytest.approx(loss, rel=1e-4)
        weights.close()
    taps = {weight.name: weight.taps for weight in model.parts[0].weights()}
    for name, grad in found.items():
        grad = grad.view(len(grad), taps[name], -1).transpose(1, 2) if taps[name] > 1 else grad
        due = grads[name].flatten()
        assert torch.allclose(grad.reshape(-1), due, rtol=2e-3, atol=2e-5 * float(due.abs().max()) + 1e-7), name


def test_a_plan_says_which_convolutions_and_what_it_saves(folder: Path, tmp_path: Path) -> None:
    model = recorded(folder, tmp_path / "recorded", batch=4, fewer=1)
    plain, own = planned(model, 10**9), planned(model, 10**9, also=(GradientFilter(patch=2),))
    assert "GradientFilter" in {step.name for step in own.steps}
    (told,) = [note for note in own.notes if "filtered" in note]
    assert "7 of 8 convolutions are filtered; not 1 with 16 x 16 places for a kernel of 7 x 7" in told
    kept = [{one.name: one.high for one in plan.cost.holders}["kept activations"] for plan in (plain, own)]
    assert kept[1] < kept[0]


def test_it_is_asked_by_name_and_refused_where_there_is_nothing_to_filter(
    folder: Path, place: Path, tmp_path: Path
) -> None:
    asked = {"steps": 4, "sequences": 4, "threads": 1, "memory": "1.2GB"}
    out = pintpot.tune(folder, place / "d.jsonl", output=tmp_path / "out", settings=Settings(filter=2), **asked)
    assert len(out.losses) == 4
    with pytest.raises(UsageError, match="places"):
        pintpot.tune(
            folder, place / "d.jsonl", output=tmp_path / "no", method="full", settings=Settings(filter=1), **asked
        )
