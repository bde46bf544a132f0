"""Ops of a program that ask for the same, found once and counted: the layers of a deep network differ in little."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pintpot.program.spec import Buffer, Buffers, Op, Program, Table

Families = Mapping[Hashable, list[tuple[Op, tuple[str, ...]]]]


@dataclass(frozen=True, slots=True)
class Alike:
    """`count` ops of a program that are like `op`.

    They have the same kind, knobs and lane, and touch buffers of the same shapes, formats and lives in the same roles:
    whatever they need, they need the same. Ops of equal `signature` are alike across programs of equal bounds.
    """

    signature: Hashable
    op: Op
    count: int


def alike(program: Program) -> Sequence[Alike]:
    """The ops of a program, grouped, in the order of their first."""
    buffers = program.buffers if isinstance(program.buffers, Buffers) else Buffers(program.buffers)
    parts = buffers.parts or (buffers,)
    if isinstance(program.ops, Table):
        return _shared(program.ops, *parts)
    return _grouped(_families(program.ops), parts)


@lru_cache(maxsize=1024)
def _shared(ops: Table[Op], *parts: Buffers) -> Sequence[Alike]:
    return _grouped(_shared_families(ops), parts)


@lru_cache(maxsize=64)
def _shared_families(ops: Table[Op]) -> Families:
    return _families(ops)


def _families(ops: Iterable[Op]) -> Families:
    """Ops of the same kind, knobs, lane and roles, each with the names that it touches."""
    found: dict[Hashable, list[tuple[Op, tuple[str, ...]]]] = {}
    for op in ops:
        touched = (*op.reads, *op.writes)
        roles = tuple([role for role, _ in touched])
        names = tuple([name for _, name in touched])
        found.setdefault((op.kind, op.attributes, op.lane, len(op.reads), roles), []).append((op, names))
    return found


def _grouped(families: Families, parts: Iterable[Buffers]) -> Sequence[Alike]:
    kinds: dict[str, Hashable] = {}
    for part in parts:
        kinds.update(_kinds(part))
    groups: list[Alike] = []
    for key, members in families.items():
        count: dict[tuple[Hashable, ...], int] = {}
        first: dict[tuple[Hashable, ...], Op] = {}
        for op, names in members:
            touched = tuple([kinds[name] for name in names])
            count[touched] = count.get(touched, 0) + 1
            first.setdefault(touched, op)
        groups += [Alike(Table((key, touched)), first[touched], number) for touched, number in count.items()]
    return groups


@lru_cache(maxsize=256)
def _kinds(part: Buffers) -> Mapping[str, Hashable]:
    return {buffer.name: _kind(buffer) for buffer in part}


def _kind(buffer: Buffer) -> Hashable:
    return buffer.shape, buffer.format, buffer.life
