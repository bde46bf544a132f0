"""Gates that are worked out while their sums are at hand: to the bit what sums, a gate and rounding in turn give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pintpot._native")

from test_kernels import ISAS, strips_of

from pintpot._native import Pool
from pintpot.kernels.native.bind import BoundWeight, bind, scratch_bytes
from pintpot.program.spec import Buffer, Life, Op, Program, Segment
from pintpot.stream.arena import open_arena

Floats = NDArray[np.float32]
TOKENS = (1, 5, 16, 33, 530)
"""Less than a panel, one, a ragged one, and more than what meets a strip at a time."""


@dataclass(frozen=True)
class Case:
    """Gates and ups of [hidden, columns], and what they are gated for, of 32 rows."""

    columns: int
    hidden: int
    form: str = "aff4"
    gate: str = "swiglu"

    def program(self, life: Life) -> Program:
        shapes = {"gate": (self.hidden, self.columns), "up": (self.hidden, self.columns), "down": (32, self.hidden)}
        packed = [Buffer(name, shape, self.form, "weights", "pack") for name, shape in shapes.items()]
        widths = {"x": self.columns, "out": 32}
        moving = [Buffer(name, ("tokens", width), "f32", "buffers", "step") for name, width in widths.items()]
        gated = Buffer("gated", ("tokens", 2 * self.hidden), "f32", "buffers", life)
        rounding = ("activation", "bfloat16")
        ops = (
            Op("linear", (("x", "x"), ("weight", "gate"), ("weight", "up")), (("out", "gated"),), (rounding,)),
            Op("linear", (("x", "gated"), ("weight", "down")), (("out", "out"),), (rounding, ("prologue", self.gate))),
        )
        bounds = (("tokens", max(TOKENS)), ("rows", max(TOKENS)), ("sequences", 1), ("context", 1024))
        return Program("p", bounds, (*packed, *moving, gated), ops, (Segment(0, 2),))

    def run(self, life: Life, tokens: int, threads: int, isa: str) -> tuple[Floats, Floats]:
        """What comes out, and what lies where the sums would."""
        program = self.program(life)
        arrays = {"x": np.random.default_rng(3).standard_normal((max(TOKENS), self.columns), np.float32)}
        arrays |= {buffer.name: np.zeros(program.shape(buffer.name), np.float32) for buffer in program.buffers[4:]}
        packed = ("gate", "up", "down")
        strips = {name: strips_of(self.form, *program.shape(name), seed=i) for i, name in enumerate(packed)}
        need = scratch_bytes(program, threads)
        sizes = {name: array.nbytes for name, array in (*arrays.items(), *strips.items())} | {"scratch": need}
        starts = np.cumsum([0, *(-(-size // 4096) * 4096 for size in sizes.values())]).tolist()
        arena = open_arena(starts[-1])
        memory = np.frombuffer(arena, np.uint8)
        at = dict(zip(sizes, starts, strict=False))
        for name, array in (*arrays.items(), *strips.items()):
            memory[at[name] : at[name] + array.nbytes] = array.reshape(-1).view(np.uint8)
        addresses = {name: arena.address + offset for name, offset in at.items()}
        weights = {
            name: BoundWeight(name, self.form, *program.shape(name), addresses[name], program.shape(name)[0], ())
            for name in strips
        }
        replay = bind(
            program, addresses, weights, Pool(threads), arenas=[arena], scratch=addresses["scratch"], scratch_size=need,
            isa=isa,
        )  # fmt: skip
        call = replay.call()
        call.num_tokens, call.num_sequences, call.positions[:] = tokens, 1, np.arange(max(TOKENS))
        call.pages[:] = 0
        assert replay.run(call)
        found = [memory[at[name] : at[name] + sizes[name]].view(np.float32).copy() for name in ("out", "gated")]
        return found[0].reshape(-1, 32), found[1]


CASES = (
    Case(64, 96),
    Case(704, 64),  # more columns than are expanded at a time
    Case(256, 32, "q4_k"),
    Case(96, 64, "sym8", "geglu"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.form}-{case.columns}-{case.gate}")
@pytest.mark.parametrize("isa", ISAS)
def test_the_bits_are_those_of_one_after_the_other(case: Case, isa: str) -> None:
    for tokens in TOKENS:
        apart, sums = case.run("session", tokens, 1, isa)  # somebody may look at it later
        at_once, rounded = case.run("step", tokens, 2, isa)
        assert np.array_equal(at_once.view(np.uint32), apart.view(np.uint32))
        assert np.isfinite(apart[:tokens]).all()
        assert apart[:tokens].any()
        assert not np.array_equal(rounded, sums)


def test_what_is_not_alike_goes_one_after_the_other() -> None:
    """Half a group of columns is no whole place in a panel."""
    case = Case(64, 48)
    (apart, sums), (found, same) = case.run("session", 5, 1, ""), case.run("step", 5, 1, "")
    assert np.array_equal(found, apart)
    assert np.array_equal(same, sums)
