"""What is asked of torch about a card, and what is recorded of its answers; the card and torch are stand-ins.

They show which calls are made, with which sizes, and that time is taken when the card has done its work. Rates of a
real card are `pytest -m cuda`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pintpot.machine import probe as room
from pintpot.machine.cuda import cuda_device, cuda_loops
from pintpot.machine.remember import load, remember
from pintpot.machine.spec import Device, Machine

FREE = 6_000_000_000
GIB = 1 << 30
SIDE = 4096
WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
SPEEDS = {
    "cuda/read": 1e12,
    "cuda/h2d_pinned": 2e10,
    "cuda/h2d_pageable": 5e9,
    "cuda/d2h_pinned": 1.5e10,
    "cuda/matmul/f32": 2e13,
    "cuda/matmul/f16": 1e14,
    "cuda/matmul/bf16": 9e13,
    "cuda/matmul/int8": 3e14,
}


class Card:
    """Does what it is asked at `SPEEDS` after everything asked before; the host's clock moves when it waits for it."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.host_s = self.done_s = 0.0
        self.log: list[str] = []
        self.refused: dict[str, str] = {}

    def do(self, what: str, units: float, waits: bool = False) -> None:
        if what in self.refused:
            raise RuntimeError(self.refused[what])
        self.log.append(f"{what} {units:g}")
        self.done_s = max(self.done_s, self.host_s) + units / SPEEDS[what]
        if waits:
            self.wait()

    def wait(self) -> None:
        self.host_s = max(self.host_s, self.done_s)


class Tensor:
    """A shape, a type and a place."""

    def __init__(
        self, card: Card, shape: int | tuple[int, ...], dtype: str, device: str = "cpu", pin_memory: bool = False
    ) -> None:
        self.card, self.dtype, self.device, self.pinned, self.turned = card, dtype, device, pin_memory, False
        self.shape = shape if isinstance(shape, tuple) else (shape,)
        self.num_bytes = WIDTHS[dtype] * math.prod(self.shape)
        if device == "cuda" and self.num_bytes > card.free:
            raise RuntimeError(f"CUDA out of memory. Tried to allocate {self.num_bytes}.\nSecond line.")

    def sum(self) -> None:
        assert self.device == "cuda"
        self.card.do("cuda/read", self.num_bytes)

    def t(self) -> Tensor:
        other = Tensor(self.card, self.shape[::-1], self.dtype, self.device)
        other.turned = True
        return other

    def copy_(self, source: Tensor, non_blocking: bool) -> None:
        assert non_blocking
        assert source.num_bytes == self.num_bytes
        if source.device == "cuda":
            assert self.device == "cpu"
            assert self.pinned
            self.card.do("cuda/d2h_pinned", self.num_bytes)
            return
        assert (source.device, self.device) == ("cpu", "cuda")
        self.card.do(f"cuda/h2d_{'pinned' if source.pinned else 'pageable'}", self.num_bytes, waits=not source.pinned)


class FakeTorch(ModuleType):
    """As much of torch as a probe asks for."""

    def __init__(self, card: Card, available: bool) -> None:
        super().__init__("torch")
        self.__spec__ = ModuleSpec("torch", None)
        self.card = card
        self.float32, self.float16, self.bfloat16, self.int8, self.uint8 = WIDTHS
        about = SimpleNamespace(name="A Card", major=8, minor=9, multi_processor_count=24, total_memory=8_000_000_000)
        self.cuda = SimpleNamespace(
            is_available=lambda: available,
            get_device_properties=lambda index: about if index == 0 else None,
            mem_get_info=lambda index=0: (card.free, about.total_memory),
            synchronize=card.wait,
        )

    @staticmethod
    def device(name: str) -> str:
        return name

    def ones(self, shape: int | tuple[int, ...], **how: Any) -> Tensor:
        return Tensor(self.card, shape, **how)

    empty = ones

    def mm(self, left: Tensor, right: Tensor) -> None:
        short = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[left.dtype]
        assert left.dtype == right.dtype
        self._product(short, left, right)

    def _int_mm(self, left: Tensor, right: Tensor) -> None:
        assert left.dtype == right.dtype == "int8"
        assert right.turned, "cuBLASLt's int8 product wants its right side by columns"
        self._product("int8", left, right)

    def _product(self, short: str, left: Tensor, right: Tensor) -> None:
        assert left.device == right.device == "cuda"
        self.card.do(f"cuda/matmul/{short}", left.shape[0] * left.shape[1] * right.shape[1])


Put = Callable[..., Card]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Puts a card into this machine."""

    def put_in(free: int = FREE, available: bool = True) -> Card:
        card = Card(free)
        monkeypatch.setitem(sys.modules, "torch", FakeTorch(card, available))
        monkeypatch.setattr("pintpot.machine.cuda.time", SimpleNamespace(perf_counter=lambda: card.host_s))
        monkeypatch.setattr("pintpot.machine.cuda.has_nvidia", lambda devices: True)
        return card

    return put_in


def test_a_card_is_described_by_what_torch_says(put: Put) -> None:
    put()
    # What is free, not what the card was sold with.
    assert cuda_device() == Device("A Card", "cuda", FREE, 24, ("sm_89",))


def test_a_card_that_torch_cannot_use_is_none(put: Put) -> None:
    put(available=False)
    assert cuda_device() is None


def test_torch_is_not_asked_where_no_card_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    assert cuda_device(tmp_path) is None
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr("pintpot.machine.cuda.find_spec", lambda name: None)
    assert cuda_device(tmp_path) is None


def test_what_is_probed_is_what_is_recorded(put: Put) -> None:
    """Also without a wait of the card's in the timed part the work would be asked for, and no time pass."""
    put()
    notes: list[str] = []
    card, rates = room._card(0.001, None, notes)
    assert card is not None
    found = {rate.what: rate for rate in rates}
    assert list(found) == list(SPEEDS)
    for what, speed in SPEEDS.items():
        assert (found[what].low, found[what].mid, found[what].high) == pytest.approx((speed,) * 3), what
        assert found[what].threads == 1
    sizes = {what: rate.size for what, rate in found.items()}
    read, copied = FREE // 8 // 4 * 4, 64 << 20
    assert sizes == dict(zip(SPEEDS, (read, *[copied] * 3, SIDE, SIDE, SIDE, SIDE), strict=True))
    assert notes == []


def test_a_round_is_the_work_that_it_counts(put: Put) -> None:
    card = put()
    loops = list(cuda_loops([]))
    for loop in loops:
        card.do("cuda/read", 1e9)  # what was asked for before and is not done yet is not this round's
        card.log.clear()
        units, seconds = loop.run(3)
        assert card.log == [f"{loop.what} {units / 3:g}"] * 3
        assert seconds == pytest.approx(units / SPEEDS[loop.what])


@pytest.mark.parametrize(("free", "read"), [(80 * GIB, GIB), (GIB, GIB // 8)])
def test_what_is_read_leaves_most_of_the_card_alone(put: Put, free: int, read: int) -> None:
    put(free)
    loop = next(iter(cuda_loops([])))
    assert (loop.what, loop.size, loop.run(1)[0]) == ("cuda/read", read, read)


def test_what_a_card_refuses_is_left_out_and_named(put: Put) -> None:
    """A card before Turing has no int8 product."""
    card = put()
    card.refused["cuda/matmul/int8"] = "CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul\nlong advice"
    notes: list[str] = []
    _, rates = room._card(0.001, None, notes)
    assert [rate.what for rate in rates] == [what for what in SPEEDS if what != "cuda/matmul/int8"]
    why = "CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul"
    assert notes == [f"cuda/matmul/int8 was not measured: {why}"]


def test_a_full_card_costs_only_what_has_no_room(put: Put) -> None:
    put(free=40_000_000)
    notes: list[str] = []
    card, rates = room._card(0.001, None, notes)
    assert card is not None
    assert card.memory_bytes == 40_000_000
    assert [rate.what.rpartition("/")[2] for rate in rates] == ["read", "f16", "bf16", "int8"]
    refused = ["cuda/h2d_pinned", "cuda/h2d_pageable", "cuda/d2h_pinned", "cuda/matmul/f32"]
    assert [note.partition(" ")[0] for note in notes] == refused
    assert all("out of memory" in note and "Second" not in note for note in notes)


@pytest.mark.parametrize("error", [RuntimeError("busy\nadvice"), OSError("busy"), ImportError("busy")])
def test_a_card_that_cannot_be_used_costs_only_itself(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr(room, "cuda_device", refuse)
    notes: list[str] = []
    assert room._card(0.001, None, notes) == (None, ())
    assert notes == ["the graphics card cannot be used: busy"]


def test_a_probe_records_the_card_beside_the_processor(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put()
    monkeypatch.setattr(room, "_cpu_rates", lambda *asked: ())
    monkeypatch.setattr(room, "_disk_rates", lambda *asked: ())
    machine = room.probe(tmp_path, quick=True)
    assert [device.kind for device in machine.devices] == ["cpu", "cuda"]
    assert machine.devices[1] == cuda_device()
    assert {rate.what: rate.mid for rate in machine.rates} == pytest.approx(SPEEDS)
    assert Machine.from_json(machine.to_json()) == machine
    remember(machine, tmp_path)
    assert load(machine.fingerprint, tmp_path) == machine
