"""Attention in slices: the same values in less memory, as promised; chosen where memory binds, refused with reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from modules import MB, opened, planned, question_of
from torch import nn
from transformers import SwinConfig, SwinModel, ViTConfig, ViTModel

import pintpot
from pintpot.errors import NotApplicable
from pintpot.machine.null import null_machine
from pintpot.model.spec import Model
from pintpot.planner.make import make_plan
from pintpot.planner.names import BUFFERS
from pintpot.planner.plan import Plan
from pintpot.planner.rebuild import rebuild_work
from pintpot.program.layout import lay_out, step_bytes
from pintpot.program.spec import Program
from pintpot.techniques.attention.sliced import SlicedAttention
from pintpot.techniques.quantize.as_stored import AsStored

HEADS, WIDTH = 4, 64


def vit(kind: str = "eager", size: int = 64) -> nn.Module:
    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=2 * WIDTH,
        image_size=size, patch_size=8, attn_implementation=kind,
    )  # fmt: skip
    return ViTModel(config, add_pooling_layer=False)


def swin() -> nn.Module:
    """Attention in windows with biases and masks, whose batch is split between the two products."""
    config = SwinConfig(
        image_size=32, patch_size=2, embed_dim=16, depths=[2], num_heads=[2], window_size=8, attn_implementation="eager"
    )
    return SwinModel(config)


def of_diffusers() -> nn.Module:
    """Where scores are scaled and added to within one product."""
    return Attention(WIDTH, heads=HEADS, dim_head=WIDTH // HEADS, processor=AttnProcessor())


KINDS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "a batch of one": (vit, (1, 3, 64, 64)),
    "a batch of three": (vit, (3, 3, 64, 64)),
    "windows": (swin, (2, 3, 32, 32)),
    "diffusers": (of_diffusers, (2, 48, WIDTH)),
}


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, torch.Tensor]:
    torch.manual_seed(5)
    build, shape = KINDS[request.param]
    x = torch.randn(*shape)
    return pintpot.adapt(build().eval(), x, folder=tmp_path_factory.mktemp("adapted") / "m"), x


def program(plan: Plan) -> Program:
    return next(rebuild_work(plan).programs())


def tensors(answer: Any) -> list[torch.Tensor]:
    inner = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, tuple) else ()
    return [answer] if isinstance(answer, torch.Tensor) else [one for item in inner for one in tensors(item)]


@pytest.mark.parametrize("slices", [3, 16])
def test_slices_give_the_same_values_in_less_memory(
    made: tuple[Model, torch.Tensor], slices: int, tmp_path: Path
) -> None:
    model, x = made
    with opened(model, tmp_path / "whole", AsStored()) as session:
        whole, wanted = step_bytes(program(session.plan)), tensors(session(x))
    with opened(model, tmp_path / "sliced", AsStored(), SlicedAttention(slices=slices)) as session:
        given, again, plan = tensors(session(x)), tensors(session(x)), session.plan
    for one, other, third in zip(given, wanted, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        assert torch.equal(one, third)
    assert step_bytes(program(plan)) < whole
    buffers = next(holder for holder in plan.cost.holders if holder.name == BUFFERS)
    assert buffers.low >= lay_out(rebuild_work(plan)).sizes["buffers"]


def test_of_the_scores_one_slice_is_alive_at_a_time(made: tuple[Model, torch.Tensor]) -> None:
    model, _ = made
    whole = program(planned(model, AsStored()))
    sliced = program(planned(model, AsStored(), SlicedAttention(slices=4)))
    softmaxes = [op for op in sliced.ops if op.get("call") == "_softmax.default"]
    assert len(softmaxes) == 4 * sum(op.get("call") == "_softmax.default" for op in whole.ops)
    adds = [sum(op.get("multiply_adds", 0.0) for op in one.ops) for one in (whole, sliced)]
    assert adds[0] == pytest.approx(adds[1]), "nothing is computed twice"


def test_attention_without_scores_is_left_alone_with_a_reason(tmp_path: Path) -> None:
    model = pintpot.adapt(vit("sdpa").eval(), torch.randn(1, 3, 64, 64), folder=tmp_path / "m")
    assert SlicedAttention.offers(model, None, None) == ()  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match="has its scores in memory"):
        planned(model, AsStored(), SlicedAttention())


def test_scores_that_others_read_stay_whole(tmp_path: Path) -> None:
    class Shown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            weights = torch.softmax(x @ x.transpose(-1, -2), -1)
            return self.out(weights @ x), weights

    model = pintpot.adapt(Shown().eval(), torch.randn(2, 96, WIDTH), folder=tmp_path / "m")
    with pytest.raises(NotApplicable, match="take no less memory"):
        planned(model, AsStored(), SlicedAttention())


def test_a_tight_budget_brings_slices_and_is_held(tmp_path: Path) -> None:
    """In the least memory there is a plan for it slices by itself, and the process stays below what it says."""
    torch.manual_seed(9)
    x = torch.randn(1, 3, 256, 256)
    model = pintpot.adapt(vit(size=256).eval(), x, folder=tmp_path / "m")
    comfortable = make_plan(model, null_machine(), question_of(model).budget)
    assert not any(isinstance(step, SlicedAttention) for step in comfortable.steps)
    wide = pintpot.plan(model, memory=800 * MB, threads=1)
    tight = pintpot.plan(model, memory=wide.smallest_bytes + MB, threads=1)
    assert any(isinstance(step, SlicedAttention) for step in tight.steps)
    folder = pintpot.pack(model, tight, tmp_path / "packed")
    memory = pintpot.prove(folder, runs=1).row("memory")
    assert memory.holds, f"{memory.measured} bytes, promised {memory.promised_low} to {memory.promised_high}"
