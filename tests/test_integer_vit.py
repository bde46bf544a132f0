"""I-ViT's functions in integers: as the paper has them, near the float ones, in a transformer, refused elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modules import lacking, opened, planned
from numpy.typing import NDArray
from torch import nn
from transformers import ViTConfig, ViTModel

import pintpot
from pintpot.errors import NotApplicable
from pintpot.planner.rebuild import rebuild_work
from pintpot.techniques.functions.integer_vit import IntegerVit
from pintpot.techniques.quantize.as_stored import AsStored

WIDTH = 32
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Only(nn.Module):
    """One function, after a linear layer that changes nothing."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.same, self.function = nn.Linear(WIDTH, WIDTH, bias=False), function
        nn.init.eye_(self.same.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.same(x))


def exponential(x: Ints, one: int, shifts: int) -> Ints:
    """2^(x log2 e), log2 e as 1.0111 in binary, a fraction by the line 1 + f / 2."""
    scaled = np.maximum(x + (x >> 1) - (x >> 4), -shifts * one)
    halvings = scaled // -one
    rest = scaled + halvings * one
    return ((rest >> 1) + one) << (shifts - halvings)


def steps(x: Floats, levels: int, shifts: int) -> tuple[Ints, np.float32]:
    largest = np.maximum(np.float32(np.abs(x).max()), np.float32(levels / 2 ** (30 - shifts)))
    per_one = np.float32(1.0) / largest * np.float32(levels)
    return np.round(x * per_one).astype(np.int64), per_one


def shiftmax(x: Floats) -> Floats:
    whole, per_one = steps(x, 127, 15)
    grown = exponential(whole - whole.max(-1, keepdims=True), max(1, int(per_one)), 15)
    over = (2**31 - 1) // np.minimum(grown.sum(-1, keepdims=True), 2**31 - 1)
    return ((grown * over) >> 16).astype(np.float32) * np.float32(2.0**-15)


def shift_gelu(x: Floats) -> Floats:
    whole, per_one = steps(x, 127, 23)
    one, wide = max(1, int(per_one)), whole + (whole >> 1) + (whole >> 3) + (whole >> 4)
    top = np.maximum(wide, 0)
    grown, beside = exponential(wide - top, one, 23) >> 1, exponential(-top, one, 23) >> 1
    share = (grown * ((2**31 - 1) // np.maximum(grown + beside, 1))) >> 24
    return (whole * share).astype(np.float32) * np.float32(2.0**-7) / per_one


def layer_norm(x: Floats) -> Floats:
    whole, _ = steps(x, 32767, 15)
    whole = whole - whole.sum(-1, keepdims=True) // WIDTH
    squares = (whole * whole).sum(-1, keepdims=True)
    root = np.full_like(squares, 2**16)
    for _ in range(10):
        root = np.maximum((root + squares // root) >> 1, 1)
    return ((whole * ((2**31 - 1) // root)) >> 1).astype(np.float32) * np.float32(np.sqrt(WIDTH) / 2**30)


FUNCTIONS: dict[str, tuple[Callable[[], nn.Module], Callable[[Floats], Floats], float]] = {
    "softmax": (lambda: nn.Softmax(-1), shiftmax, 0.05),
    "gelu": (nn.GELU, shift_gelu, 0.25),
    "layer norm": (lambda: nn.LayerNorm(WIDTH, eps=0.0), layer_norm, 5e-3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 6.0])
def test_functions_are_those_of_the_paper_and_near_the_float_ones(name: str, scale: float, tmp_path: Path) -> None:
    build, wanted, most = FUNCTIONS[name]
    torch.manual_seed(4)
    net, x = Only(build()).eval(), torch.randn(3, 5, WIDTH) * scale
    model = pintpot.adapt(net, x, folder=tmp_path / "m")
    with opened(model, tmp_path, AsStored(), IntegerVit()) as session, torch.inference_mode():
        given, real = session(x), net(x)
    assert np.abs(given.numpy() - wanted(x.numpy())).max() <= 2e-6 * max(1.0, scale)
    assert float((given - real).abs().max()) < most * max(1.0, scale / 3)


def vit(**more: Any) -> nn.Module:
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=64, patch_size=8,
        **more,
    )  # fmt: skip
    return ViTModel(config, add_pooling_layer=False)


def test_a_vision_transformer_in_integers_is_nearly_the_same(tmp_path: Path) -> None:
    torch.manual_seed(8)
    net, x = vit(attn_implementation="eager").eval(), torch.randn(2, 3, 64, 64)
    model = pintpot.adapt(net, x, folder=tmp_path / "m")
    with opened(model, tmp_path, AsStored(), IntegerVit()) as session, torch.inference_mode():
        calls = {op.get("call") for op in next(rebuild_work(session.plan).programs()).ops}
        given, wanted = session(x)["last_hidden_state"], net(x).last_hidden_state
        assert torch.equal(session(x)["last_hidden_state"], given)
    assert calls.isdisjoint({"_softmax.default", "gelu.default", "native_layer_norm.default", "exp.default"})
    assert 0 < lacking(given, wanted) < 2e-3


def test_it_is_had_by_name_alone_and_refused_where_nothing_is_to_be_done(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Softmax(0)).eval()
    model = pintpot.adapt(net, torch.randn(4, WIDTH), folder=tmp_path / "m")
    assert IntegerVit.offers(model, None, None) == ()  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match="over its last axis"):
        planned(model, AsStored(), IntegerVit())
    plain = pintpot.adapt(nn.Linear(WIDTH, 4).eval(), torch.randn(4, WIDTH), folder=tmp_path / "plain")
    with pytest.raises(NotApplicable, match="calls no softmax"):
        planned(plain, AsStored(), IntegerVit())
