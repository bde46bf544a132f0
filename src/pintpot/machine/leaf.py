"""A packed leaf as a module has it, on PyTorch's threads, to be timed: what it takes beside its products."""

from __future__ import annotations

import ctypes
from math import prod

from pintpot.program.ops.linear import check
from pintpot.program.spec import Buffer, Op, Program, Segment

COLUMNS, FORMAT = 32, "sym8"
_FILL = 0x01
_PLACE = 4096


class Leaf:
    """A linear op of so many rows and outputs over few columns; a call computes it once."""

    def __init__(self, rows: int, outputs: int, threads: int) -> None:
        from pintpot._native import Pool
        from pintpot.formats import encoding
        from pintpot.kernels.native.bind import BoundWeight, bind
        from pintpot.kernels.torch.bind import native_leaves
        from pintpot.kernels.torch.threads import fork_address
        from pintpot.program.scratch import scratch_bytes
        from pintpot.stream.arena import open_arena

        self.num_outputs = float(rows * outputs)
        program = _program(rows, outputs)
        need = {name: 4 * prod(program.shape(name)) for name in ("x", "bias", "out")}
        need |= {"weight": encoding(FORMAT).packed_bytes(outputs, COLUMNS), "scratch": scratch_bytes(program, threads)}
        at: dict[str, int] = {}
        end = 0
        for name, num_bytes in need.items():
            at[name], end = end, end + -(-num_bytes // _PLACE) * _PLACE
        arena = open_arena(end)
        ctypes.memset(arena.address, _FILL, end)
        addresses = {name: arena.address + at[name] for name in ("x", "bias", "out")}
        weight = BoundWeight("weight", FORMAT, outputs, COLUMNS, arena.address + at["weight"], outputs)
        pool, scratch = Pool(threads, fork=fork_address()), arena.address + at["scratch"]
        replay = bind(
            program, addresses, {"weight": weight}, pool, arenas=[arena], scratch=scratch, scratch_size=need["scratch"]
        )
        self._run = native_leaves(replay)

    def __call__(self) -> bool:
        return self._run(0, 1)


def _program(rows: int, outputs: int) -> Program:
    buffers = (
        Buffer("x", (rows * COLUMNS,), "int32", "buffers", "step"),
        Buffer("weight", (outputs, COLUMNS), FORMAT, "weights", "pack"),
        Buffer("bias", (outputs,), "f32", "weights", "pack"),
        Buffer("out", (rows * outputs,), "int32", "buffers", "step"),
    )
    knobs = (("activation", "int8"), ("rows", rows))
    op = Op("linear", (("x", "x"), ("weight", "weight"), ("bias", "bias")), (("out", "out"),), knobs)
    bounds = (("tokens", 1), ("rows", 1), ("sequences", 1), ("context", 1))
    program = Program("leaf", bounds, buffers, (op,), (Segment(0, 1),))
    check(op, program)
    return program
