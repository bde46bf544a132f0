"""Where every buffer lies. What lives only inside a replay shares one arena, packed by lifetime."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import NamedTuple

from pintpot.formats import encoding
from pintpot.program.spec import Buffer, Op, Program, Table, Work

ALIGN = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """Offsets in bytes. `session` holds what outlives a replay, by buffer name; `steps` the rest, by program name.

    `sizes` are the bytes of each arena: one for each holder of session buffers, and `buffers` for both kinds of
    scratch; weights are not laid out here, for their place is the pack's.
    """

    session: Mapping[str, tuple[str, int]]
    steps: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, int]


def buffer_bytes(program: Program, buffer: Buffer) -> int:
    """A buffer's size with every axis at its bound; a single axis holds 4-byte values."""
    return _bytes(program.shape(buffer.name), buffer.format)


@lru_cache(maxsize=4096)
def _bytes(shape: tuple[int, ...], name: str) -> int:
    return prod(shape[:-1]) * encoding(name).row_bytes(shape[-1]) if len(shape) > 1 else 4 * shape[0]


def lay_out(work: Work) -> Layout:
    """The layout of all stages over the same memory; stages never run at the same time."""
    needed: dict[str, tuple[str, int]] = {}
    for program in work.programs():
        for buffer in _of_session(program.buffers):
            size = max(buffer_bytes(program, buffer), needed.get(buffer.name, ("", 0))[1])
            needed[buffer.name] = (buffer.holder, size)
    session: dict[str, tuple[str, int]] = {}
    sizes: dict[str, int] = {"buffers": 0}
    for name, (holder, size) in needed.items():
        offset = sizes.get(holder, 0)
        session[name] = (holder, offset)
        sizes[holder] = offset + _aligned(size)
    steps: dict[str, Mapping[str, int]] = {}
    base = end = sizes["buffers"]
    for program in work.programs():
        lives, axes = _lives(program.ops, program.buffers)
        offsets, num_bytes = _packed(lives, tuple([axis for axis in program.bounds if axis[0] in axes]))
        steps[program.name] = {name: base + offset for name, offset in offsets.items()}
        end = max(end, base + num_bytes)
    sizes["buffers"] = end
    return Layout(session, steps, sizes)


def step_bytes(program: Program) -> int:
    """Bytes of what lives only inside one replay of a program."""
    lives, axes = _lives(program.ops, program.buffers)
    return _packed(lives, tuple([axis for axis in program.bounds if axis[0] in axes]))[1]


@lru_cache(maxsize=64)
def _of_session(buffers: tuple[Buffer, ...]) -> tuple[Buffer, ...]:
    return tuple([buffer for buffer in buffers if buffer.life == "session"])


class Life(NamedTuple):
    """A step buffer, alive from op `first` to op `last`."""

    name: str
    shape: tuple[int | str, ...]
    format: str
    first: int
    last: int


@lru_cache(maxsize=64)
def _lives(ops: tuple[Op, ...], buffers: tuple[Buffer, ...]) -> tuple[Table[Life], frozenset[str]]:
    """The step buffers in the order of their first ops, and the axes that their sizes depend on."""
    steps = {buffer.name: buffer for buffer in buffers if buffer.life == "step"}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, op in enumerate(ops):
        for _, name in (*op.reads, *op.writes):
            if name in steps:
                first.setdefault(name, index)
                last[name] = index
    lives = [Life(name, steps[name].shape, steps[name].format, start, last[name]) for name, start in first.items()]
    return Table(lives), frozenset(axis for life in lives for axis in life.shape if isinstance(axis, str))


@lru_cache(maxsize=256)
def _packed(lives: Table[Life], bounds: tuple[tuple[str, int], ...]) -> tuple[Mapping[str, int], int]:
    """First fit of step buffers, by their lives; returns offsets and the end."""
    axes = dict(bounds)
    offsets: dict[str, int] = {}
    end = 0
    alive: list[tuple[int, int, int]] = []
    for name, shape, encoded, start, last in lives:
        alive = [item for item in alive if item[2] >= start]
        size = _aligned(_bytes(tuple([axis if isinstance(axis, int) else axes[axis] for axis in shape]), encoded))
        at = 0
        for begin, stop, _ in alive:
            if at + size <= begin:
                break
            at = max(at, stop)
        offsets[name] = at
        insort(alive, (at, at + size, last))
        end = max(end, at + size)
    return offsets, end


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGN) * ALIGN
