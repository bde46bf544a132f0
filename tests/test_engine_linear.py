"""How one linear op is cut into chunks: fewer strips than there are threads, and far more than the ring has buffers.

Inputs are whole numbers up to 127, with one of 127 in each group, so that rounding to int8 loses nothing, and a strip
that is multiplied twice, never, or into another's place is seen at once. What nobody wrote is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pintpot._native")

from test_kernels import strips_of

from pintpot._native import Pool, Ring, crc32c
from pintpot.formats import encoding
from pintpot.formats.tiles import unpack
from pintpot.kernels import reference
from pintpot.kernels.native.bind import BoundWeight, Piece, bind, scratch_bytes
from pintpot.program.fetch import Slot, lay_slots
from pintpot.program.spec import Buffer, Op, Program, Segment
from pintpot.stream.arena import open_arena
from pintpot.stream.ring import RingSlot, open_ring, ring_stats

Floats = NDArray[np.float32]
FEW_TOKENS, MANY_TOKENS = 2, 7
"""On the two sides of the number of tokens from which chunks are cut smaller."""
GUARD = 64


@dataclass(frozen=True)
class Case:
    """Weights as (rows, format, rows that rest in memory), all of `columns`."""

    weights: tuple[tuple[int, str, int], ...]
    columns: int = 64
    activation: str = "int8"
    slot_bytes: int = 4096
    num_buffers: int = 2

    @property
    def width(self) -> int:
        return sum(rows for rows, _, _ in self.weights)

    def program(self, tokens: int) -> Program:
        names = [f"w{index}" for index in range(len(self.weights))]
        packed = [
            Buffer(name, (rows, self.columns), form, "weights", "pack")
            for name, (rows, form, _) in zip(names, self.weights, strict=True)
        ]
        packed += [Buffer(f"b{i}", (rows,), "f32", "weights", "pack") for i, (rows, _, _) in enumerate(self.weights)]
        moving = [
            Buffer(name, ("tokens", width), "f32", "buffers", "step")
            for name, width in (("x", self.columns), ("residual", self.width), ("out", self.width))
        ]
        biases = [("bias", f"b{index}") for index in range(len(self.weights))]
        reads = (("x", "x"), *(("weight", name) for name in names), *biases, ("residual", "residual"))
        streamed = [name for name, (rows, _, ram) in zip(names, self.weights, strict=True) if ram < rows]
        fetches = [Op("fetch", (("weight", name),), (), lane="read") for name in streamed]
        ops = (*fetches, Op("linear", reads, (("out", "out"),), (("activation", self.activation),)))
        bounds = (("tokens", tokens), ("rows", tokens), ("sequences", 1), ("context", 32))
        return Program("p", bounds, (*packed, *moving), ops, (Segment(0, len(ops)),))

    def values(self, tokens: int) -> tuple[list[Any], dict[str, Floats]]:
        """Strips of each weight, and everything else that is read."""
        rng = np.random.default_rng(7)
        strips = [strips_of(form, rows, self.columns, seed) for seed, (rows, form, _) in enumerate(self.weights)]
        x = rng.integers(-127, 128, (tokens, self.columns)).astype(np.float32)
        x[:, ::32] = 127
        vectors = {"x": x, "residual": rng.standard_normal((tokens, self.width)).astype(np.float32)}
        vectors |= {f"b{i}": rng.standard_normal(w[0]).astype(np.float32) for i, w in enumerate(self.weights)}
        return strips, vectors

    def expected(self, tokens: int) -> NDArray[np.float64]:
        strips, vectors = self.values(tokens)
        memory: reference.Memory = {name: array.astype(np.float64) for name, array in vectors.items()}
        for index, (rows, form, _) in enumerate(self.weights):
            memory[f"w{index}"] = unpack(strips[index], form, rows, self.columns).astype(np.float64)
        nothing = np.zeros(tokens, np.int32)
        reference.run(self.program(tokens), memory, reference.Call(nothing, nothing, nothing, (), ((0,),)))
        return np.asarray(memory["out"])

    def slots(self) -> tuple[Slot, ...]:
        sizes = [encoding(form).strip_bytes(self.columns) for _, form, _ in self.weights]
        parts = [
            (f"w{index}", ram // 16, -(-rows // 16) - ram // 16, size)
            for index, ((rows, _, ram), size) in enumerate(zip(self.weights, sizes, strict=True))
        ]
        return lay_slots([part for part in parts if part[2]], self.slot_bytes)


def multiplied(case: Case, tokens: int, threads: int, folder: Path, passes: int = 1) -> Floats:
    """The op's output after some passes."""
    program, (strips, vectors) = case.program(tokens), case.values(tokens)
    table, pieces = written(case, strips, folder / "pack")
    resident = [part[: ram // 16].reshape(-1) for part, (_, _, ram) in zip(strips, case.weights, strict=True)]
    need, out_bytes = scratch_bytes(program, threads), 4 * (tokens * case.width + 2 * GUARD)
    sizes = {name: array.nbytes for name, array in vectors.items()}
    sizes |= {f"w{index}": part.nbytes for index, part in enumerate(resident)}
    sizes |= {"guarded": out_bytes, "scratch": need, "ring": case.num_buffers * case.slot_bytes if table else 0}
    starts = np.cumsum([0, *(-(-size // 4096) * 4096 for size in sizes.values())]).tolist()
    at = dict(zip(sizes, starts, strict=False))
    arena = open_arena(max(4096, starts[-1]))
    memory = np.frombuffer(arena, np.uint8)
    memory[:] = 0xFF
    for name, array in (*vectors.items(), *((f"w{index}", part) for index, part in enumerate(resident))):
        memory[at[name] : at[name] + array.nbytes] = array.reshape(-1).view(np.uint8)
    ring = None
    if table:
        ring = open_ring(
            folder / "pack", table, arena, offset=at["ring"], num_buffers=case.num_buffers, slot_bytes=case.slot_bytes
        )
    weights = {
        f"w{index}": BoundWeight(f"w{index}", form, rows, case.columns, arena.address + at[f"w{index}"], min(ram, rows),
                                 tuple(pieces.get(f"w{index}", ())))
        for index, (rows, form, ram) in enumerate(case.weights)
    }  # fmt: skip
    addresses = {name: arena.address + offset for name, offset in at.items()}
    addresses["out"] = addresses["guarded"] + 4 * GUARD
    replay = bind(
        program, addresses, weights, Pool(threads), arenas=[arena], scratch=addresses["scratch"], scratch_size=need,
        ring=ring,
    )  # fmt: skip
    call = replay.call()
    call.num_tokens, call.num_sequences, call.positions[:] = tokens, 1, np.arange(tokens)
    call.pages[:] = 0
    around = memory[at["guarded"] : at["guarded"] + out_bytes].view(np.float32)
    for _ in range(passes):
        around[:] = np.nan
        assert replay.run(call)
        assert np.isnan(around[:GUARD]).all()
        assert np.isnan(around[-GUARD:]).all()
    found = around[GUARD:-GUARD].reshape(tokens, case.width).copy()
    close(ring, passes * len(table))
    return found


def written(case: Case, strips: list[Any], file: Path) -> tuple[list[RingSlot], dict[str, list[Piece]]]:
    table: list[RingSlot] = []
    pieces: dict[str, list[Piece]] = {}
    with file.open("wb") as out:
        for index, slot in enumerate(case.slots()):
            raw = bytearray(slot.num_bytes)
            for piece in slot.pieces:
                which = int(piece.weight[1:])
                part = strips[which][piece.first_strip : piece.first_strip + piece.num_strips].tobytes()
                raw[piece.offset : piece.offset + len(part)] = part
                first, rows = piece.first_strip * 16, case.weights[which][0]
                found = Piece(index, piece.offset, first, min(piece.num_strips * 16, rows - first))
                pieces.setdefault(piece.weight, []).append(found)
            table.append(RingSlot(out.tell(), len(raw), crc32c(raw)))
            out.write(raw)
    return table, pieces


def close(ring: Ring | None, least_slots: int) -> None:
    if ring is not None:
        assert ring_stats(ring).slots_read >= least_slots
        ring.close()


def check(case: Case, tokens: int, threads: int, folder: Path, passes: int = 1) -> bytes:
    found, expected = multiplied(case, tokens, threads, folder, passes), case.expected(tokens)
    assert np.isfinite(found).all(), f"{threads} threads, {tokens} tokens: a part of the output was left out"
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max(), f"{threads} threads, {tokens} tokens"
    return found.tobytes()


@pytest.mark.parametrize("ram", [0, 1000], ids=["streamed", "resident"])
@pytest.mark.parametrize("activation", ["int8", "float32"])
@pytest.mark.parametrize("rows", [(1,), (15,), (16,), (17,), (1, 1, 1), (33, 1, 16)])
def test_fewer_strips_than_threads(rows: tuple[int, ...], activation: str, ram: int, tmp_path: Path) -> None:
    """Most threads find no chunk, also in the middle of a slot and between two weights."""
    case = Case(tuple((number, "sym4", min(ram, -(-number // 16) * 16)) for number in rows), activation=activation)
    strips = sum(-(-number // 16) for number in rows)
    for tokens in (FEW_TOKENS, MANY_TOKENS):
        found = {check(case, tokens, threads, tmp_path) for threads in (1, strips + 1, 9)}
        assert len(found) == 1


MANY = {
    "one weight, a chunk or two for each slot": Case(((4000, "sym8", 0),)),
    "slots of few strips and many threads": Case(((1000, "f32", 0),), columns=192, slot_bytes=16384),
    "part of it in memory": Case(((4000, "sym4", 2608),), columns=96),
    "three weights, each in another place": Case(
        ((900, "sym4", 912), (1531, "q4_k", 0), (801, "f16", 400)), columns=256, slot_bytes=12288
    ),
    "a ring of more buffers": Case(((5000, "aff5", 0), (37, "sym8", 0)), columns=100, num_buffers=5),
}


@pytest.mark.parametrize("name", MANY)
def test_more_chunks_than_the_ring_has_buffers(name: str, tmp_path: Path) -> None:
    """Twice over, so that what is read ahead for the next pass takes the place of what this one is done with."""
    case = MANY[name]
    assert len(case.slots()) > 8 * case.num_buffers
    for tokens in (FEW_TOKENS, MANY_TOKENS):
        assert len({check(case, tokens, threads, tmp_path, passes=2) for threads in (1, 2, 5)}) == 1


@pytest.mark.parametrize("activation", ["int8", "int8x2", "bfloat16", "float32"])
def test_many_chunks_in_memory(activation: str, tmp_path: Path) -> None:
    """Each thread's region is many parts long; the last one is short, and regions end inside weights."""
    rows = (3001, 16, 2500)
    case = Case(tuple((number, "sym8", -(-number // 16) * 16) for number in rows), columns=256, activation=activation)
    assert sum(rows) * case.columns > 8 * 3 * (32 << 10)
    for tokens in (FEW_TOKENS, MANY_TOKENS):
        assert len({check(case, tokens, threads, tmp_path) for threads in (1, 2, 3)}) == 1


def test_slots_of_two_weights_are_shared(tmp_path: Path) -> None:
    """A slot that holds the end of one weight and the beginning of the next is given back when both are done."""
    case = Case(tuple((80, "sym8", 0) for _ in range(40)))
    shared = [slot for slot in case.slots() if len(slot.pieces) > 1]
    assert len(shared) > 4 * case.num_buffers
    assert any(one.pieces[-1].weight == two.pieces[0].weight for one, two in pairwise(case.slots()))
    for tokens in (FEW_TOKENS, MANY_TOKENS):
        assert len({check(case, tokens, threads, tmp_path, passes=3) for threads in (1, 2, 5)}) == 1
