"""Convolutions in the native replay: rows gathered where they lie, and words looked up that a buffer holds."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pintpot._native")

from test_kernels import strips_of

from pintpot._native import Pool
from pintpot.errors import BadPack, UsageError
from pintpot.formats.tiles import unpack
from pintpot.kernels import reference
from pintpot.kernels.native.bind import BoundWeight, bind, scratch_bytes
from pintpot.program.gather import Axis, Gather, gather_of
from pintpot.program.ops import check
from pintpot.program.scratch import scratch_bytes as planned_scratch
from pintpot.program.spec import Buffer, Op, Program, Segment
from pintpot.stream.arena import open_arena

GUARD = 64
OUTPUTS = 37


def axis(size: int, stride: int, kernel: int, step: int = 1, before: int = 0, dilation: int = 1) -> Axis:
    places = (size + 2 * before - dilation * (kernel - 1) - 1) // step + 1
    return Axis(size, stride, places, kernel, step, before, dilation)


ONE = axis(1, 0, 1)
GATHERS = {
    "channels last": Gather(2, 7 * 9 * 5, 5, 1, (ONE, axis(7, 45, 3, before=1), axis(9, 5, 3, before=1))),
    "channels first": Gather(2, 3 * 7 * 9, 3, 63, (ONE, axis(7, 9, 3, 2, 1), axis(9, 1, 5, 2, 2))),
    "many places, shared out": Gather(1, 0, 5, 1, (ONE, axis(13, 85, 3, before=1), axis(17, 5, 3, before=1))),
    "dilated": Gather(1, 0, 4, 1, (ONE, ONE, axis(31, 4, 5, 2, 4, 3))),
    "of three axes": Gather(1, 0, 2, 1, (axis(4, 50, 2, 2), axis(5, 10, 2, before=1), axis(5, 2, 3))),
    "points": Gather(3, 6 * 6 * 33, 33, 1, (ONE, axis(6, 198, 1, 2), axis(6, 33, 1, 2))),
}


@dataclass(frozen=True)
class Rig:
    """One op, bound; `run()` gives its output, and what must not be written stays NaN."""

    program: Program
    inputs: dict[str, NDArray[Any]]
    strips: NDArray[np.uint8]
    form: str
    shape: tuple[int, int]

    def run(self, threads: int = 2) -> NDArray[np.float32]:
        outputs = prod(self.program.shape("out"))
        need = scratch_bytes(self.program, threads)
        assert need == planned_scratch(self.program, threads)
        parts = {**self.inputs, "weight": self.strips}
        sizes = {name: part.nbytes for name, part in parts.items()} | {
            "out": 4 * (outputs + 2 * GUARD),
            "scratch": need,
        }
        starts = np.cumsum([0, *(-(-size // 4096) * 4096 for size in sizes.values())]).tolist()
        at = dict(zip(sizes, starts, strict=False))
        arena = open_arena(max(4096, starts[-1]))
        memory = np.frombuffer(arena, np.uint8)
        memory[:] = 0xFF
        for name, part in parts.items():
            memory[at[name] : at[name] + part.nbytes] = part.reshape(-1).view(np.uint8)
        addresses = {name: arena.address + at[name] for name in self.inputs}
        addresses["out"] = arena.address + at["out"] + 4 * GUARD
        weight = BoundWeight("weight", self.form, *self.shape, arena.address + at["weight"], self.shape[0])
        replay = bind(
            self.program, addresses, {"weight": weight}, Pool(threads),
            arenas=[arena], scratch=arena.address + at["scratch"], scratch_size=need,
        )  # fmt: skip
        call = replay.call()
        call.num_tokens = call.num_rows = call.num_sequences = 1
        assert replay.run(call)
        written = memory[at["out"] : at["out"] + sizes["out"]].view(np.float32)
        assert np.isnan(written[[*range(GUARD), *range(-GUARD, 0)]]).all()
        found = written[GUARD:-GUARD].copy()
        del written, memory, replay, call
        arena.close()
        return found

    def truth(self) -> NDArray[np.float64]:
        memory: reference.Memory = {
            name: part.astype(np.float64) if part.dtype == np.float32 else part for name, part in self.inputs.items()
        }
        memory["weight"] = unpack(self.strips, self.form, *self.shape).astype(np.float64)
        nothing = np.zeros(1, np.int32)
        reference.run(self.program, memory, reference.Call(nothing, nothing, nothing, (), ((0,),)))
        return np.asarray(memory["out"]).reshape(-1)


def convolution(gather: Gather, form: str, activation: str) -> Rig:
    rng = np.random.default_rng(3)
    shape = (OUTPUTS, gather.columns)
    buffers = (
        Buffer("x", (gather.values,), "int32", "buffers", "step"),
        Buffer("weight", shape, form, "weights", "pack"),
        Buffer("bias", (OUTPUTS,), "f32", "weights", "pack"),
        Buffer("out", (gather.rows * OUTPUTS,), "int32", "buffers", "step"),
    )
    knobs = (("activation", activation), ("rows", gather.rows), ("gather", gather))
    op = Op("linear", (("x", "x"), ("weight", "weight"), ("bias", "bias")), (("out", "out"),), knobs)
    program = Program("p", BOUNDS, buffers, (op,), (Segment(0, 1),))
    check(program)
    inputs = {"x": rng.standard_normal(gather.values).astype(np.float32)}
    inputs["bias"] = rng.standard_normal(OUTPUTS).astype(np.float32)
    return Rig(program, inputs, strips_of(form, *shape, 5), form, shape)


BOUNDS = (("tokens", 1), ("rows", 1), ("sequences", 1), ("context", 1))


@pytest.mark.parametrize(("name", "form"), list(product(GATHERS, ("f32", "sym8", "sym4", "aff3"))))
def test_convolutions_beside_the_reference(name: str, form: str) -> None:
    for activation in ("float32", "int8", "int8x2"):
        rig = convolution(GATHERS[name], form, activation)
        found, wanted = rig.run(), rig.truth()
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
        np.testing.assert_array_equal(found, rig.run(threads=1))


def test_rows_are_those_that_pytorch_unfolds() -> None:
    torch = pytest.importorskip("torch")
    x, weight = torch.randn(2, 5, 7, 9), torch.randn(OUTPUTS, 5, 3, 3)
    from pintpot.kernels.reference.linear import unfolded

    rows = unfolded(x.permute(0, 2, 3, 1).contiguous().numpy(), GATHERS["channels last"])
    found = torch.from_numpy(rows) @ weight.permute(0, 2, 3, 1).reshape(OUTPUTS, -1).T
    wanted = torch.nn.functional.conv2d(x, weight, padding=1).permute(0, 2, 3, 1).reshape(-1, OUTPUTS)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def lookup(form: str, ids: list[int]) -> Rig:
    shape = (50, 48)
    buffers = (
        Buffer("ids", (len(ids),), "int32", "buffers", "step"),
        Buffer("weight", shape, form, "weights", "pack"),
        Buffer("out", (len(ids) * shape[1],), "int32", "buffers", "step"),
    )
    op = Op("embed", (("ids", "ids"), ("weight", "weight")), (("out", "out"),), (("rows", len(ids)),))
    program = Program("p", BOUNDS, buffers, (op,), (Segment(0, 1),))
    check(program)
    return Rig(program, {"ids": np.array(ids, np.int32)}, strips_of(form, *shape, 5), form, shape)


@pytest.mark.parametrize("form", ["f32", "sym8", "nf4"])
@pytest.mark.parametrize("ids", [[49, 0], [3, 3, 17, 49, 20, 0, 1, 48, 9, 30]])
def test_words_of_a_buffer(form: str, ids: list[int]) -> None:
    rig = lookup(form, ids)
    np.testing.assert_allclose(rig.run(), rig.truth(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ids", [[50], [-1], [0, 1, 2, 3, 4, 5, 1 << 30]])
def test_words_that_are_none_are_refused(ids: list[int]) -> None:
    with pytest.raises(UsageError, match=r"word -?\d+ is not one of 50"):
        lookup("sym8", ids).run()


@pytest.mark.parametrize("found", [(1, 2), (1, 0, 1, 1, ((1,) * 7,)), (1, 0, 0, 1, ((1,) * 7,) * 3), "x" * 9])
def test_gathers_that_cannot_be(found: Any) -> None:
    with pytest.raises(UsageError, match="a gather of"):
        gather_of(found)


def test_a_gather_beyond_its_memory_is_refused() -> None:
    rig = convolution(GATHERS["dilated"], "sym8", "int8")
    op = rig.program.ops[0]
    longer = op.get("gather")._replace(channel_stride=2)
    knobs = tuple((key, longer if key == "gather" else value) for key, value in op.attributes)
    forged = Program("p", BOUNDS, rig.program.buffers, (Op("linear", op.reads, op.writes, knobs),), (Segment(0, 1),))
    with pytest.raises(UsageError, match="gathers beyond x"):
        check(forged)
    with pytest.raises(BadPack, match="lies in none of the arenas"):
        huge = op.get("gather")._replace(channel_stride=1 << 20)
        knobs = tuple((key, huge if key == "gather" else value) for key, value in op.attributes)
        Rig(
            Program("p", BOUNDS, rig.program.buffers, (Op("linear", op.reads, op.writes, knobs),), (Segment(0, 1),)),
            rig.inputs, rig.strips, rig.form, rig.shape,
        ).run()  # fmt: skip
