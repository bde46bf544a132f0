"""Where every buffer lies. What lives only inside a replay shares one arena, packed by lifetime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
    """A buffer's size with every axis at its bound."""
    rows, *_ = shape = program.shape(buffer.name)
    count = 1
    for axis in shape[:-1]:
        count *= axis
    return count * encoding(buffer.format).row_bytes(shape[-1]) if len(shape) > 1 else rows * 4


def lay_out(work: Work) -> Layout:
    """The layout of all stages over the same memory; stages never run at the same time."""
    session: dict[str, tuple[str, int]] = {}
    needed: dict[str, tuple[str, int]] = {}
    for program in work.programs():
        for buffer in program.buffers:
            if buffer.life == "session":
                size = max(buffer_bytes(program, buffer), needed.get(buffer.name, ("", 0))[1])
                needed[buffer.name] = (buffer.holder, size)
    sizes: dict[str, int] = {"buffers": 0}
    for name, (holder, size) in needed.items():
        offset = sizes.get(holder, 0)
        session[name] = (holder, offset)
        sizes[holder] = offset + _aligned(size)
    steps: dict[str, Mapping[str, int]] = {}
    peak = 0
    for program in work.programs():
        offsets, size = _pack_lifetimes(program, sizes["buffers"])
        steps[program.name] = offsets
        peak = max(peak, size)
    sizes["buffers"] = max(sizes["buffers"], peak)
    return Layout(session, steps, sizes)


def _pack_lifetimes(program: Program, base: int) -> tuple[dict[str, int], int]:
    """First fit of the step buffers, each alive from its first op to its last; returns offsets and the end."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, op in enumerate(program.ops):
        for _, name in (*op.reads, *op.writes):
            if program.by_name[name].life == "step":
                first.setdefault(name, index)
                last[name] = index
    offsets: dict[str, int] = {}
    end = base
    alive: list[tuple[int, int, str]] = []
    for name in sorted(first, key=lambda key: first[key]):
        alive = [item for item in alive if last[item[2]] >= first[name]]
        size = _aligned(buffer_bytes(program, program.by_name[name]))
        at = base
        for start, stop, _ in sorted(alive):
            if at + size <= start:
                break
            at = max(at, stop)
        offsets[name] = at
        alive.append((at, at + size, name))
        end = max(end, at + size)
    return offsets, end


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGN) * ALIGN
