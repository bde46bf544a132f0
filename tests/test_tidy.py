"""What recordings do in vain is left out: the same values from fewer calls and less memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from modules import opened
from torch import nn

import pintpot
from pintpot.planner.rebuild import rebuild_work
from pintpot.program.layout import step_bytes
from pintpot.program.spec import Program
from pintpot.runtime.module import ModuleSession
from pintpot.techniques.quantize.as_stored import AsStored

CHANNELS = 8


class Wasteful(nn.Module):
    """Pads apart, copies what lies as it should, computes what nobody wants, and never writes where it read."""

    def __init__(self) -> None:
        super().__init__()
        groups = {"groups": CHANNELS}
        self.first, self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, **groups), nn.Conv2d(CHANNELS, CHANNELS, 3, **groups)
        self.norm, self.head = nn.BatchNorm2d(CHANNELS), nn.Linear(CHANNELS, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = nn.functional.pad(x, (0, 0, 0, 0))
        y = self.norm(self.first(nn.functional.pad(x, (1, 1, 2, 2))))
        torch.exp(y)
        y = nn.functional.hardswish(y).clone() * 2 + 1
        z = self.second(nn.functional.pad(y, (0, 1, 0, 1))).sigmoid()
        kept = torch.tanh(y)
        return self.head(z.mean((2, 3))), kept + y.mean()


def program(session: ModuleSession) -> Program:
    return next(rebuild_work(session.plan).programs())


def test_what_is_left_out_changes_no_value(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net, x = Wasteful().eval(), torch.randn(2, CHANNELS, 20, 24)
    model = pintpot.adapt(net, x, folder=tmp_path / "m")
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        calls = Counter(str(op.get("call")) for op in program(session).ops)
        for turn in range(2):
            for given, wanted in zip(session(x + turn), net(x + turn), strict=True):
                torch.testing.assert_close(given, wanted, atol=1e-6, rtol=1e-5)
        picture = 4 * x.numel()
        assert step_bytes(program(session)) < 4 * picture
    assert calls["constant_pad_nd.default"] == 1, "the pad that has more on one side stays"
    assert calls["exp.default"] == calls["clone.default"] == 0


def test_what_changes_values_alone_writes_where_it_read(tmp_path: Path) -> None:
    chain = nn.Sequential(
        nn.Linear(16, 16), nn.GELU(), nn.Tanh(), nn.Hardtanh(), nn.Sigmoid(), nn.Linear(16, 16)
    ).eval()
    model = pintpot.adapt(chain, torch.randn(512, 16), folder=tmp_path / "m")
    with opened(model, tmp_path, AsStored()) as session:
        assert step_bytes(program(session)) == 4 * 512 * 16


def test_what_is_read_again_is_not_written_over(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            z, w = torch.relu(y), y.clone()
            w += z.flip(0) * z
            return self.layer(y) + w + torch.exp(z).t()

    net, x = Twice().eval(), torch.randn(16, 16)
    model = pintpot.adapt(net, x, folder=tmp_path / "m")
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        torch.testing.assert_close(session(x), net(x), atol=1e-5, rtol=1e-4)


def test_a_product_that_adds_nothing_needs_no_memory_for_it(tmp_path: Path) -> None:
    net = Attention(32, heads=4, dim_head=8, processor=AttnProcessor()).eval()
    x = torch.randn(1, 96, 32)
    model = pintpot.adapt(net, x, folder=tmp_path / "m")
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        torch.testing.assert_close(session(x), net(x), atol=1e-5, rtol=1e-4)
        scores = 4 * 4 * 96 * 96
        assert step_bytes(program(session)) < 2 * scores + 8 * x.numel() * 4
