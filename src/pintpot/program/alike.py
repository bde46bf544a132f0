"""Ops of a program that ask for the same, found once and counted: the layers of a deep network differ in little."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count

from pintpot.program.spec import Buffers, Op, Program, Table

Names = Table[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Alike:
    """`count` ops of a program that are like `op`.

    They have the same kind, knobs and lane, and touch buffers of the same shapes, formats and lives in the same roles:
    whatever they need, they need the same. Ops of equal `signature` are alike across programs of equal bounds.
    """

    signature: Hashable
    op: Op
    count: int


@dataclass(frozen=True, slots=True)
class Family:
    """Ops of the same kind, knobs, lane and roles, and the names that each touches, in the order of the roles."""

    key: Hashable
    ops: tuple[Op, ...]
    names: Names


def alike(program: Program) -> Sequence[Alike]:
    """The ops of a program, grouped; one object for programs of the same ops and buffers."""
    buffers = program.buffers if isinstance(program.buffers, Buffers) else Buffers(program.buffers)
    ops = program.ops if isinstance(program.ops, Table) else Table(program.ops)
    return _shared(ops, *(buffers.parts or (buffers,)))


@lru_cache(maxsize=1024)
def _shared(ops: Table[Op], *parts: Buffers) -> tuple[Alike, ...]:
    """The groups of ops that many programs share."""
    # Asked of every family, tables are told apart by what they are, which is only fast where equal ones are one.
    parts = tuple([_one_table(part) for part in parts])
    return tuple(
        Alike(Table((family.key, key)), family.ops[first], size)
        for family in _shared_families(ops)
        for key, first, size in _divided(family.names, *parts)
    )


@lru_cache(maxsize=4096)
def _divided(names: Names, *parts: Buffers) -> tuple[tuple[tuple[int, ...], int, int], ...]:
    """Ops by the sorts of buffers that they touch in each table: the sorts' numbers, the first op, and how many.

    What each table says of them is found once.
    """
    splits = [_split(names, part) for part in parts]
    many = [split for split in splits if len(split.groups) > 1]
    if len(many) > 1:
        return _divided_by_all(names, parts)
    # Where all tables but one see no difference, its groups are the groups.
    deciding = many[0] if many else splits[0]
    only = [next(iter(split.groups)) for split in splits]
    at = splits.index(deciding)
    return tuple(((*only[:at], number, *only[at + 1 :]), *group) for number, group in deciding.groups.items())


def _divided_by_all(names: Names, parts: Sequence[Buffers]) -> tuple[tuple[tuple[int, ...], int, int], ...]:
    sorts = [_sorts(part) for part in parts]
    found: dict[tuple[int, ...], list[int]] = {}
    for index, touched in enumerate(names):
        key = tuple([_number(tuple([known.get(name) for name in touched])) for known in sorts])
        found.setdefault(key, []).append(index)
    return tuple((key, at[0], len(at)) for key, at in found.items())


@lru_cache(maxsize=64)
def _shared_families(ops: Table[Op]) -> list[Family]:
    return [Family(family.key, family.ops, _interned(family.names)) for family in _families(ops)]


@cache
def _one_table(part: Buffers) -> Buffers:
    return part


@cache
def _interned(names: Names) -> Names:
    """One object for equal names, so that finding what is known of them compares nothing."""
    return names


def _families(ops: Iterable[Op]) -> list[Family]:
    found: dict[Hashable, tuple[list[Op], list[tuple[str, ...]]]] = {}
    for op in ops:
        touched = op.reads + op.writes
        key = (op.kind, op.attributes, op.lane, len(op.reads), tuple([role for role, _ in touched]))
        members = found.get(key)
        if members is None:
            members = found[key] = ([], [])
        members[0].append(op)
        members[1].append(tuple([name for _, name in touched]))
    return [Family(key, tuple(members), Table(names)) for key, (members, names) in found.items()]


@dataclass(frozen=True, slots=True)
class Split:
    """Ops by the sorts of buffers that they touch in one table: (first of them, how many) by the sorts' number."""

    groups: Mapping[int, tuple[int, int]]


@lru_cache(maxsize=4096)
def _split(names: Names, part: Buffers) -> Split:
    sorts = _sorts(part)
    groups: dict[int, tuple[int, int]] = {}
    for index, touched in enumerate(names):
        number = _number(tuple([sorts.get(name) for name in touched]))
        first, size = groups.get(number, (index, 0))
        groups[number] = (first, size + 1)
    return Split(groups)


@lru_cache(maxsize=256)
def _sorts(part: Buffers) -> Mapping[str, int]:
    return {buffer.name: _number((buffer.shape, buffer.format, buffer.life)) for buffer in part}


@cache
def _number(what: Hashable) -> int:
    """A number of its own for each thing: numbers are compared faster than what they stand for."""
    return next(_NUMBERS)


_NUMBERS = count()
