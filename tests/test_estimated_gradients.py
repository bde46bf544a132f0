"""Gradients of which two of four are kept: unbiased, of the least variance, drawn again alike, and priced."""

from __future__ import annotations

from functools import partial
from itertools import product as every
from pathlib import Path

import pytest
import torch
from learning import drawn_sequences, folder_of, gathering, made
from tiny import Tiny

from pintpot.budget import Train, Workload
from pintpot.contract.training import TrainingForm
from pintpot.kernels.torch.products import Beside, products
from pintpot.kernels.torch.two_four import chances, estimated
from pintpot.machine.null import null_machine
from pintpot.nets._training import training_work
from pintpot.planner.price import Prices, price_stage
from pintpot.planner.rates import Rates
from pintpot.program.ops import check
from pintpot.techniques.sparsify.s_ste import Softened, SSte
from pintpot.trainer.learned import Pace

TINY = Tiny(family="qwen2", heads=4, kv_heads=2)
EVERY = TrainingForm(at_once=2, fused=True, states="f32")
TRAIN = Train(length=40, sequences=3, steps=4)
DRAWS = 2000


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def grad() -> torch.Tensor:
    """Ordinary fours; some with zeros, ties, a value larger than the others together, one value alone, and none."""
    found = drawn(8, 12)
    found[:4, 0] = torch.tensor([10.0, 1.0, -2.0, 0.5])
    found[:4, 1] = torch.tensor([0.0, 0.0, -3.0, 0.0])
    found[:4, 2] = 0.0
    found[:4, 3] = torch.tensor([1.0, -1.0, 1.0, 1.0])
    found[:4, 4] = torch.tensor([2.0, 0.0, 2.0, 0.0])
    return found


@pytest.fixture(scope="module")
def draws(grad: torch.Tensor) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.stack([estimated(grad, draw) for _ in range(DRAWS)])


def test_two_of_four_are_kept_and_the_mean_is_the_gradient(grad: torch.Tensor, draws: torch.Tensor) -> None:
    kept = (draws.view(DRAWS, 2, 4, -1) != 0).sum(dim=2)
    nonzero = (grad.view(2, 4, -1) != 0).sum(dim=1)
    assert torch.equal(kept.amin(dim=0), nonzero.clamp_max(2))
    assert torch.equal(kept.amax(dim=0), nonzero.clamp_max(2))
    p = chances(grad.view(2, 4, -1).transpose(0, 1)).transpose(0, 1).reshape(grad.shape)
    deviation = (grad.square() * (1 / p.clamp_min(1e-9) - 1)).clamp_min(0).sqrt() / DRAWS**0.5
    assert bool(((draws.mean(dim=0) - grad).abs() <= 4.5 * deviation + 1e-4).all())
    assert torch.equal(draws[:, :4, 2], torch.zeros(DRAWS, 4))
    assert torch.allclose(draws[:, 2, 1], torch.tensor(-3.0))
    assert torch.allclose(draws[:, 0, 0], torch.tensor(10.0))


def test_no_unbiased_estimate_of_two_in_four_varies_less(grad: torch.Tensor, draws: torch.Tensor) -> None:
    """The least that any chances give which sum to two, found by trying them all, coarsely."""
    found = draws.var(dim=0, unbiased=False).view(2, 4, -1).sum(dim=1)[0]
    grid = torch.linspace(0.025, 1, 40)
    others = torch.tensor([(a, b, c, 2 - a - b - c) for a, b, c in every(grid.tolist(), repeat=3)
                           if 0.02 <= 2 - a - b - c <= 1.0])  # fmt: skip
    for column in (0, 3, 5, 6, 7):
        own = grad[:4, column]
        least = float((own.square() * (1 / others - 1)).sum(dim=1).min())
        assert float(found[column]) <= 1.05 * least + 1e-3
    # Far less than if any two were kept, each counted twice.
    assert float(found[0]) < 0.3 * float(grad[:4, 0].square().sum())


def test_tokens_beyond_whole_fours_are_as_they_were() -> None:
    grad = drawn(10, 7)
    found = estimated(grad, torch.Generator().manual_seed(1))
    assert torch.equal(found[8:], grad[8:])
    assert not torch.equal(found[:8], grad[:8])
    assert torch.equal(estimated(grad[:3], torch.Generator()), grad[:3])


def product(x: torch.Tensor, w: torch.Tensor, estimate: bool) -> torch.Tensor:
    return products(x, Beside({"w": w}, ("w",), 1.0, estimated=estimate), [w], [None])[0]


def test_rows_have_exact_gradients_and_weights_estimated_ones_drawn_alike() -> None:
    x, w, out = drawn(64, 24).requires_grad_(), drawn(16, 24, seed=1).requires_grad_(), drawn(64, 16, seed=2)
    exact = torch.autograd.grad(product(x, w, False), (x, w), out)
    first, again = (torch.autograd.grad(product(x, w, True), (x, w), out) for _ in range(2))
    assert torch.allclose(first[0], exact[0], atol=1e-5)
    assert torch.equal(first[1], again[1])
    assert not torch.allclose(first[1], exact[1], atol=1e-2)
    # Over gradients of many sizes, each with a draw of its own.
    means = torch.stack([
        torch.autograd.grad(product(x, w, True), w, out * scale)[0] / scale
        for scale in (1 + torch.arange(400) / 400).tolist()
    ])  # fmt: skip
    apart = (means.mean(dim=0) - exact[1]).abs() / (means.std(dim=0) / 400**0.5)
    assert float(apart.mean()) == pytest.approx(0.8, abs=0.15)  # of a normal distribution
    assert float(apart.max()) < 5


def test_a_model_learns_by_estimates_and_a_start_that_goes_on_draws_the_same(tmp_path: Path) -> None:
    folder, sequences = folder_of(TINY, tmp_path), drawn_sequences(3, 40, TINY.vocab)

    def gradients(*steps: SSte) -> tuple[list[float], dict[str, torch.Tensor]]:
        with made(folder, EVERY, TRAIN, *steps, tutor=Softened()) as ours:
            found: dict[str, torch.Tensor] = {}
            ours.network.learn(sequences, gathering(found))
            update = partial(ours.learned.update, pace=Pace(1e-3), steps=4)
            return [ours.network.learn(sequences, partial(update, step=at)) for at in range(4)], found

    (plain, exact), (losses, found), (again, _) = gradients(SSte()), gradients(SSte(estimated=True)), gradients(
        SSte(estimated=True)
    )  # fmt: skip
    assert losses == again
    assert losses[0] == plain[0]
    assert losses[-1] < losses[0]
    assert losses[1:] != plain[1:]
    for name, one in exact.items():
        near = torch.nn.functional.cosine_similarity(one.flatten(), found[name].flatten(), dim=0)
        assert float(near) > 0.3, name
    assert torch.equal(exact["norm"], found["norm"])


def test_estimates_are_in_the_price(tmp_path: Path) -> None:
    with made(folder_of(TINY, tmp_path), EVERY, TRAIN) as ours:
        part, form = ours.model.part("language"), ours.form
        plain = training_work(part, form, Workload(train=TRAIN))
        seconds = []
        for step in (SSte(), SSte(estimated=True)):
            work = step.rewrite(plain, form)
            for program in work.programs():
                check(program)
            stage = work.stage("backward")
            prices = Prices(Rates(null_machine(), 2, 1 << 30))
            seconds.append(price_stage(stage.programs[0], prices, stage.extents).ram_bytes)
        assert seconds[1] > seconds[0]
