"""Where every buffer lies. What lives only inside a replay shares one arena, packed by lifetime."""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from pintpot.formats import encoding
from pintpot.program.spec import Buffer, Program, Work

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
        for buffer in program.buffers:
            if buffer.life == "session":
                size = max(buffer_bytes(program, buffer), needed.get(buffer.name, ("", 0))[1])
                needed[buffer.name] = (buffer.holder, size)
    session: dict[str, tuple[str, int]] = {}
    sizes: dict[str, int] = {"buffers": 0}
    for name, (holder, size) in needed.items():
        offset = sizes.get(holder, 0)
        session[name] = (holder, offset)
        sizes[holder] = offset + _aligned(size)
    steps: dict[str, Mapping[str, int]] = {}
    end = sizes["buffers"]
    for program in work.programs():
        steps[program.name], stop = _pack_lifetimes(program, sizes["buffers"])
        end = max(end, stop)
    sizes["buffers"] = end
    return Layout(session, steps, sizes)


def _pack_lifetimes(program: Program, base: int) -> tuple[dict[str, int], int]:
    """First fit of the step buffers, each alive from its first op to its last; returns offsets and the end."""
    buffers = program.by_name
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, op in enumerate(program.ops):
        for _, name in (*op.reads, *op.writes):
            if buffers[name].life == "step":
                first.setdefault(name, index)
                last[name] = index
    offsets: dict[str, int] = {}
    end = base
    alive: list[tuple[int, int, int]] = []
    for name, start in first.items():
        alive = [item for item in alive if item[2] >= start]
        size = _aligned(buffer_bytes(program, buffers[name]))
        at = base
        for begin, stop, _ in alive:
            if at + size <= begin:
                break
            at = max(at, stop)
        offsets[name] = at
        insort(alive, (at, at + size, last[name]))
        end = max(end, at + size)
    return offsets, end


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGN) * ALIGN
