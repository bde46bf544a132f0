"""First stages in patches: the same values in less memory, overlaps counted, chosen where memory binds, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from modules import MB, left, opened, planned, question_of
from torch import nn
from transformers import MobileNetV2Config, MobileNetV2Model

import pintpot
from pintpot.contract.step import Step
from pintpot.errors import NotApplicable
from pintpot.machine.null import null_machine
from pintpot.model.spec import Model
from pintpot.planner.make import make_plan
from pintpot.planner.names import BUFFERS
from pintpot.planner.plan import Plan
from pintpot.planner.rebuild import rebuild_work
from pintpot.program.layout import lay_out, step_bytes
from pintpot.program.spec import Program
from pintpot.techniques.patches.patch_stage import PatchStage
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest


class Pooled(nn.Module):
    """A stage of layers, and a linear layer over the mean of what they make."""

    def __init__(self, *layers: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.stage, self.head = nn.Sequential(*layers), nn.Linear(channels, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stage(x).mean((2, 3)))


class Residual(nn.Module):
    """Two ways to the same place, one of them through a wide window, joined by a sum and side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 5, padding=4, dilation=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x + self.far(nn.functional.silu(x)), self.near(x)], 1)


STAGES = {
    "pools and steps": lambda: (
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True),
        nn.Conv2d(16, 16, 5, 1, 2, groups=16), nn.Hardswish(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(16, 8, 3, 2, 1),
    ),
    "two ways": lambda: (nn.Conv2d(3, 8, 4, 2), Residual(8), nn.AvgPool2d(3, 2, 1), nn.Conv2d(16, 8, 2, 2)),
    "padded apart": lambda: (
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2), nn.PReLU(8), nn.ConstantPad2d((2, 0, 1, 3), 0.5),
        nn.Conv2d(8, 8, (5, 3), (1, 2)), nn.MaxPool2d(2),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=STAGES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, torch.Tensor]:
    torch.manual_seed(5)
    net, x = Pooled(*STAGES[request.param]()).eval(), torch.randn(2, 3, 47, 62)
    for one in net.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.running_mean.normal_()
            one.running_var.uniform_(0.5, 2.0)
    return pintpot.adapt(net, x, folder=tmp_path_factory.mktemp("adapted") / "m"), x


def program(plan: Plan) -> Program:
    return next(rebuild_work(plan).programs())


@pytest.mark.parametrize("side", [2, 3])
def test_patches_give_the_same_values_in_less_memory(
    made: tuple[Model, torch.Tensor], side: int, tmp_path: Path
) -> None:
    model, x = made
    with opened(model, tmp_path / "whole", AsStored(), left(model)) as session:
        whole, wanted = session.plan, session(x)
    with opened(model, tmp_path / "patched", AsStored(), left(model), PatchStage(side=side)) as session:
        given, again, plan = session(x), session(x), session.plan
    torch.testing.assert_close(given, wanted, atol=1e-6, rtol=1e-5)
    assert torch.equal(given, again)
    assert step_bytes(program(plan)) < step_bytes(program(whole))
    buffers = next(holder for holder in plan.cost.holders if holder.name == BUFFERS)
    assert buffers.low >= lay_out(rebuild_work(plan)).sizes["buffers"]


def test_what_overlaps_is_computed_twice_and_counted(made: tuple[Model, torch.Tensor]) -> None:
    model, _ = made
    plans = [
        planned(model, AsStored(), left(model), *steps) for steps in ((), (PatchStage(side=2),), (PatchStage(side=4),))
    ]
    adds = [plan.cost.stage("forward").multiply_adds for plan in plans]
    assert adds[0] < adds[1] < adds[2] < 4 * adds[0]


def test_a_published_network_in_patches(tmp_path: Path) -> None:
    """MobileNetV2 pads apart from its convolutions, and its blocks add what they were given."""

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = MobileNetV2Config(depth_multiplier=0.25, image_size=96)
            self.net, self.head = MobileNetV2Model(config, add_pooling_layer=False), nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.net(x).last_hidden_state)

    torch.manual_seed(6)
    net, x = Features().eval(), torch.randn(1, 3, 96, 96)
    model = pintpot.adapt(net, x, folder=tmp_path / "m")
    whole = step_bytes(program(planned(model, AsStored(), left(model))))
    with (
        opened(model, tmp_path / "patched", AsStored(), left(model), PatchStage(side=3)) as session,
        torch.inference_mode(),
    ):
        torch.testing.assert_close(session(x), net(x), atol=1e-4, rtol=1e-4)
        assert step_bytes(program(session.plan)) < 0.4 * whole


def test_networks_without_a_first_stage_are_left_alone_with_a_reason(tmp_path: Path) -> None:
    def adapted(name: str, *layers: nn.Module, channels: int = 8) -> Model:
        net = Pooled(*layers, channels=channels).eval()
        return pintpot.adapt(net, torch.randn(1, 3, 32, 32), folder=tmp_path / name)

    flat = adapted("flat", nn.Flatten(2), nn.Unflatten(1, (3, 1)), channels=3)
    assert PatchStage.offers(flat, None, None) == ()  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match="no convolutions"):
        planned(flat, AsStored(), left(flat), PatchStage())
    growing = adapted("growing", nn.Conv2d(3, 8, 2, 2), nn.ConvTranspose2d(8, 8, 16, 8))
    with pytest.raises(NotApplicable, match="take less memory"):
        planned(growing, AsStored(), left(growing), PatchStage())


def test_a_tight_budget_brings_patches(tmp_path: Path) -> None:
    """In the least memory there is a plan for it makes patches by itself; with room only where they are faster."""
    torch.manual_seed(9)
    net = Pooled(nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 8, 3, 2, 1), nn.ReLU()).eval()
    model = pintpot.adapt(net, torch.randn(1, 3, 448, 448), folder=tmp_path / "m")
    whole = step_bytes(program(planned(model, AsStored())))
    comfortable = make_plan(model, null_machine(), question_of(model).budget)
    assert not any(isinstance(step, PatchStage) for step in comfortable.steps)
    assert any("PatchStage" in row.what and "slower" in row.reason for row in comfortable.rejected)
    tight = pintpot.plan(model, memory=pintpot.plan(model, memory=800 * MB, threads=1).smallest_bytes + MB, threads=1)
    assert any(isinstance(step, PatchStage) for step in tight.steps)
    assert step_bytes(program(tight)) < whole - 12 * MB
    memory = pintpot.prove(pintpot.pack(model, tight, tmp_path / "packed"), runs=1).row("memory")
    assert memory.holds, f"{memory.measured} bytes, promised {memory.promised_low} to {memory.promised_high}"


@pytest.mark.parametrize(
    "steps", [(AsStored(),), (RoundToNearest("blocks", 8), Int8Activations())], ids=["f32", "int8"]
)
def test_packed_convolutions_give_the_same_bits_in_patches(steps: tuple[Step, ...], tmp_path: Path) -> None:
    """Strides and dilation, a layer of single places, and a depthwise one that stays with PyTorch between them."""
    torch.manual_seed(7)
    layers = (
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), nn.ReLU6(),
        nn.Conv2d(24, 24, 3, 1, 1, groups=24), nn.Conv2d(24, 16, 3, 1, 2, dilation=2), nn.SiLU(), nn.Conv2d(16, 8, 1),
        nn.BatchNorm2d(8),
    )  # fmt: skip
    net, x = Pooled(*layers).eval(), torch.randn(2, 3, 53, 66)
    model = pintpot.adapt(net, x, folder=tmp_path / "m")
    with opened(model, tmp_path / "whole", *steps) as session:
        whole, wanted = step_bytes(program(session.plan)), session(x)
    for side in (2, 3):
        with opened(model, tmp_path / f"patched {side}", *steps, PatchStage(side=side)) as session:
            ops = program(session.plan).ops
            assert sum(op.get("gather") is not None for op in ops) >= 2 * side**2
            torch.testing.assert_close(session(x), wanted, atol=1e-6, rtol=1e-5)
            assert step_bytes(program(session.plan)) < 0.7 * whole
