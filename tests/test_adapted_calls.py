"""Calls of PyTorch's library in recordings: which there are, what they cost, and those refused for what they may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from modules import opened
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import flop_registry

import pintpot
from pintpot.errors import UnsupportedModel, UsageError
from pintpot.program.calls import ATTENTION, MEANINGS, meaning
from pintpot.program.ops import aten
from pintpot.program.spec import Buffer, Buffers, Extent, Op, Program, Segment
from pintpot.techniques.quantize.as_stored import AsStored

BATCH, LENGTH, WIDTH = 2, 6, 32
BUFFER_WORDS = 1 << 20


def test_every_known_call_is_an_operator_that_is_decided_by_its_arguments() -> None:
    counted = {str(packet) for packet in flop_registry}
    for name in MEANINGS:
        packet = getattr(torch.ops.aten, name)
        overloads = [getattr(packet, overload) for overload in packet.overloads()]
        # Attention for CPUs is tagged for what it could drop, and is given nothing to.
        assert name == ATTENTION or not any(torch.Tag.nondeterministic_seeded in one.tags for one in overloads), name
        # Where memory is read from a file or an address it comes as a text or a storage.
        kinds = {str(argument.type) for one in overloads for argument in one._schema.arguments}
        assert not {"Storage", "Generator"} & kinds, name
        assert meaning(f"{name}_.default") == meaning(f"{name}.default")
        if MEANINGS[name] == "product" and name != ATTENTION:
            assert f"aten.{name}" in counted
    assert all(meaning(f"{name}.default") is None for name in ("from_file", "set_", "resize_", "_unsafe_index", ""))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.steps, self.head = kind(WIDTH, WIDTH, num_layers=2, batch_first=True), nn.Linear(WIDTH, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.steps(x)[0])


class Picture(nn.Module):
    """Convolutions, every norm, pools, and sizes that change."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
        self.group, self.batch = nn.GroupNorm(2, 8), nn.BatchNorm2d(8)
        self.larger, self.up = nn.ConvTranspose2d(8, 8, 2, 2), nn.Upsample(scale_factor=2.0, mode="bilinear")
        self.head = nn.Linear(8, 4)
        nn.init.normal_(self.batch.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.silu(self.group(self.first(x)))
        x = functional.max_pool2d(self.batch(self.larger(x)), 2)
        x = functional.adaptive_avg_pool2d(functional.interpolate(self.up(x), size=12), 3).flatten(2).transpose(1, 2)
        return self.head(functional.rms_norm(x, (8,)))


class Seen(nn.Module):
    """Shared key heads, a mask, choices, and a tensor that is looked at in another way from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q = self.layer(x).unflatten(-1, (4, -1)).transpose(1, 2)
        mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        mixed = functional.scaled_dot_product_attention(q, q[:, :2], q[:, :2], attn_mask=mask, enable_gqa=True)
        best = mixed.flatten(2).topk(3).indices
        turned = mixed.clone().unsqueeze_(0).squeeze_(0)
        turned.transpose_(1, 2)
        return self.layer(turned.flatten(2)), torch.where(best > 4, best, -best).sort(-1, descending=True).values


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (lambda: Recurrent(nn.LSTM), (BATCH, LENGTH, WIDTH)),
        (lambda: Recurrent(nn.GRU), (BATCH, LENGTH, WIDTH)),
        (Picture, (BATCH, 3, 8, 8)),
        (Seen, (BATCH, LENGTH, WIDTH)),
    ],
    ids=["lstm", "gru", "picture", "seen"],
)
def test_modules_of_many_kinds_give_what_they_give_unpacked(net: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(5)
    module, x = net().eval(), torch.randn(shape)
    model = pintpot.adapt(module, x, folder=tmp_path / "net")
    with opened(model, tmp_path, AsStored()) as session, torch.inference_mode():
        for given in (x, x.flip(0)):
            torch.testing.assert_close(session(given), module(given), atol=1e-5, rtol=1e-4)


class Calls(nn.Module):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.layer, self.what = nn.Linear(8, 8), what
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.what(x, self.mean))


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (lambda x, _: torch.cdist(x, x), "calls aten::_cdist_forward, and what that does is not known here"),
        (lambda x, _: torch.linalg.inv(x), "calls aten::linalg_inv_ex"),
        (lambda x, mean: functional.batch_norm(x, mean, mean + 1, training=True), "as only training does"),
    ],
)
def test_a_call_that_is_not_known_is_refused_by_name(what: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=why):
        pintpot.adapt(Calls(what).eval(), torch.ones(8, 8), folder=tmp_path / "none")


def call(name: str, *sizes: tuple[int, ...], args: str | None = None, out: tuple[int, ...] = (), **more: Any) -> Op:
    """A call with tensors of these sizes, each in memory of its own, in the order of its arguments."""
    views = tuple(("float32", one, tuple(torch.empty(one, device="meta").stride()), 0) for one in sizes)
    given = args if args is not None else str([{"t": at} for at in range(len(sizes))]).replace("'", '"')
    outs = (("float32", out, tuple(torch.empty(out, device="meta").stride()), 0),)
    knobs = {"call": name, "args": given, "kwargs": "{}", "views": views, "outs": outs, **more}
    reads = tuple(("tensor", str(at)) for at in range(len(sizes)))
    return Op("aten", reads, (("out", "out"),), tuple(knobs.items()))


def program(op: Op) -> Program:
    names = [*dict.fromkeys(name for _, name in op.reads), "out"]
    buffers = Buffers(Buffer(name, (BUFFER_WORDS,), "int32", "buffers", "session") for name in names)
    return Program("forward", (("tokens", 1), ("context", 1)), buffers, (op,), (Segment(0, 1),))


HEADS, FEWER, PICTURE = (1, 4, 6, 8), (1, 3, 6, 8), (1, 8, 4, 4)
NORMED = '[{"t": 0}, {"t": 1}, null, {"t": 2}, {"t": 3}, %s, 0.1, 1e-05]'
SCALED = '[{"t": 0}, [8, 8], false, %s, 2.0]'


@pytest.mark.parametrize(
    "op",
    [
        call(f"{ATTENTION}.default", HEADS, FEWER, FEWER),
        call(f"{ATTENTION}.default", HEADS, HEADS, (1, 4, 5, 8)),
        call(f"{ATTENTION}.default", HEADS, HEADS, HEADS, args='[{"t": 0}, {"t": 1}]'),
        call(f"{ATTENTION}.default", HEADS, HEADS, HEADS, (3, 6), kwargs='{"attn_mask": {"t": 3}}'),
        call("native_batch_norm.default", PICTURE, (4,), (8,), (8,), args=NORMED % "false"),
        call("native_batch_norm.default", PICTURE, (8,), (8,), (8,), args=NORMED % "true"),
        call("_weight_norm_interface.default", (8, 4), (4, 1)),
        call("_weight_norm_interface.default", (8, 4, 4), (1, 4, 1), args='[{"t": 0}, {"t": 1}, 1]'),
        call("upsample_bilinear2d.default", PICTURE, args=SCALED % "1e-30"),
        call("upsample_bilinear2d.default", PICTURE, args=SCALED % "NaN"),
        call("add.Tensor", HEADS, args='[{"t": 7}]'),
        call("add.Tensor", HEADS, args="[" * 100_000),
    ],
)
def test_what_operators_leave_unchecked_is_refused_before_they_run(op: Op) -> None:
    with pytest.raises(UsageError, match="does not fit together"):
        aten.check(op, program(op))


@pytest.mark.parametrize(
    "name", ["from_file.default", "set_.source_Storage", "_unsafe_index.Tensor", "resize_.default"]
)
def test_a_strangers_recording_may_not_call_what_is_not_known(name: str) -> None:
    with pytest.raises(UsageError, match="may not call"):
        aten.check(op := call(name, HEADS), program(op))


@pytest.mark.parametrize(
    "op",
    [
        call(f"{ATTENTION}.default", HEADS, (1, 2, 6, 8), (1, 2, 6, 8)),
        call(f"{ATTENTION}.default", HEADS, HEADS, HEADS, (6, 1), kwargs='{"attn_mask": {"t": 3}}'),
        call("native_batch_norm.default", PICTURE, (8,), (8,), (8,), args=NORMED % "false"),
        call("_weight_norm_interface.default", (8, 4), (8, 1)),
        call("upsample_bilinear2d.default", PICTURE, args=SCALED % "2.0"),
    ],
)
def test_what_fits_together_is_taken(op: Op) -> None:
    aten.check(op, program(op))


def demand(op: Op) -> Any:
    return aten.demand(op, program(op), Extent(1))


def test_a_call_costs_what_it_looks_at() -> None:
    lookup = demand(call("embedding.default", (1000, 64), (6,), out=(6, 64)))
    assert lookup.ram_bytes == 4 * (6 + 2 * 6 * 64)
    reduced = demand(call("sum.default", (1024, 64), args='[{"t": 0}]'))
    assert (reduced.ram_bytes, reduced.work[1].amount) == (4 * (1024 * 64 + 1), 1024 * 64)
    ordered = demand(call("sort.default", (1024,), args='[{"t": 0}]', out=(1024,)))
    assert ordered.work[1].amount == 1024 * 10
    product = demand(call("mm.default", (64, 32), (32, 16), out=(64, 16), multiply_adds=64.0 * 32 * 16))
    assert (product.work[1].what, product.work[1].amount, product.work[1].size) == ("aten/product", 64 * 32 * 16, 64)
