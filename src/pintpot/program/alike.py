"""Ops of a program that ask for the same, found once and counted: the layers of a deep network differ in little."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count

from pintpot.program.spec import Buffers, Op, Program, Table

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
    kinds: dict[str, int] = {}
    for part in parts:
        kinds.update(_kinds(part))
    groups: list[Alike] = []
    for key, members in families.items():
        found: dict[tuple[int, ...], list[Op]] = {}
        for op, names in members:
            found.setdefault(tuple([kinds[name] for name in names]), []).append(op)
        groups += [Alike(Table((key, touched)), ops[0], len(ops)) for touched, ops in found.items()]
    return groups


@lru_cache(maxsize=256)
def _kinds(part: Buffers) -> Mapping[str, int]:
    return {buffer.name: _kind(buffer.shape, buffer.format, buffer.life) for buffer in part}


@cache
def _kind(shape: tuple[int | str, ...], name: str, life: str) -> int:
    """A number of its own for each sort of buffer: numbers are compared faster than what they stand for."""
    return next(_NUMBERS)


_NUMBERS = count()
