"""WORK: flat lists of ops over named buffers, the one description that pricing, layout and backends read.

Shapes are bounds: an axis is a number, or one of the names in `AXES` whose bound the program holds; true lengths are
arguments of the replay (`Extent`). A buffer's name is one memory across all stages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal, TypeVar

AXES = ("tokens", "rows", "sequences", "context", "pages")
"""Tokens of one replay, rows of it whose logits are wanted, sequences side by side, positions a sequence can hold, and
pages of the cache."""

Life = Literal["pack", "session", "step", "ring"]
Lane = Literal["compute", "read", "write", "copy", "exchange"]
Item = TypeVar("Item")


class Table(tuple[Item, ...]):
    """A tuple that many owners share: it knows its hash, so that what was found out about it is found again cheaply."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Buffer:
    """Named memory. `format` is an encoding of `pintpot.formats` (`f32`, `sym4`, `int32` ...).

    `holder` says for whom it is counted: weights, cache, buffers, ring, tables. `life`: `pack` is loaded once and
    read-only; `session` lives while the pack is open; `step` only inside one replay; `ring` is refilled by `fetch`.
    """

    name: str
    shape: tuple[int | str, ...]
    format: str
    holder: str
    life: Life
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Op:
    """One piece of work. `reads` and `writes` are (role, buffer name) pairs; a role may come several times, in order.

    `kind` names the module of `pintpot.program.ops` that knows its shapes, operations and bytes. `share` is the part of
    the work that really happens, low..high, for ops whose extent depends on data.
    """

    kind: str
    reads: tuple[tuple[str, str], ...]
    writes: tuple[tuple[str, str], ...]
    attributes: tuple[tuple[str, Any], ...] = ()
    device: str = "cpu"
    lane: Lane = "compute"
    share: tuple[float, float] = (1.0, 1.0)

    def read(self, role: str) -> str | None:
        """The buffer read in this role, None where there is none."""
        return _first(self.reads, role)

    def read_all(self, role: str) -> tuple[str, ...]:
        return tuple([name for key, name in self.reads if key == role])

    def write(self, role: str) -> str | None:
        return _first(self.writes, role)

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute's value."""
        return _first(self.attributes, key, default)


def _first(pairs: tuple[tuple[str, _Value], ...], key: str, default: _Value | None = None) -> _Value | None:
    """What the first pair of a key holds. A loop, for a plan asks a hundred thousand times."""
    for name, value in pairs:
        if name == key:
            return value
    return default


@dataclass(frozen=True, slots=True)
class Segment:
    """Ops `first` up to but not including `stop`; `slot` names what may run after them."""

    first: int
    stop: int
    slot: str | None = None


class Buffers(Table[Buffer]):
    """Named buffers; `parts` are the tables that they were joined from, in order."""

    parts: tuple[Buffers, ...] = ()

    @classmethod
    def join(cls, *parts: Buffers) -> Buffers:
        joined = cls(chain.from_iterable(parts))
        joined.parts = parts
        return joined

    @cached_property
    def by_name(self) -> dict[str, Buffer]:
        found: dict[str, Buffer] = {}
        for part in self.parts:
            found.update(part.by_name)
        return found if self.parts else {buffer.name: buffer for buffer in self}


@dataclass(frozen=True)
class Program:
    """Ops over buffers, in the order in which they take effect. `bounds` gives every axis name its bound."""

    name: str
    bounds: tuple[tuple[str, int], ...]
    buffers: tuple[Buffer, ...]
    ops: tuple[Op, ...]
    segments: tuple[Segment, ...]

    @cached_property
    def by_name(self) -> dict[str, Buffer]:
        return self.buffers.by_name if isinstance(self.buffers, Buffers) else Buffers(self.buffers).by_name

    @cached_property
    def num_readers(self) -> Counter[str]:
        """How many ops read each buffer."""
        return Counter(name for op in self.ops for name in {name for _, name in op.reads})

    @cached_property
    def _bounds(self) -> dict[str, int]:
        return dict(self.bounds)

    def bound(self, axis: str) -> int:
        return self._bounds[axis]

    def shape(self, name: str) -> tuple[int, ...]:
        """A buffer's shape with every axis at its bound."""
        bounds = self._bounds
        return tuple([axis if isinstance(axis, int) else bounds[axis] for axis in self.by_name[name].shape])


@dataclass(frozen=True, slots=True)
class Extent:
    """True lengths of one replay: new tokens, rows with logits, sequences, and positions already in the cache."""

    tokens: int
    rows: int = 1
    sequences: int = 1
    context: int = 0


Extents = tuple[tuple[Extent, int], ...]
"""True lengths of replays, and how many replays have them."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One phase of the work: a program per recorded width, narrowest first, the part it needs, and its replays.

    Of a module the first program is of the shapes that a plan promises, and others need no more memory than it prices.

    `extents` are those of the whole workload. The first stage of a work ends with the first answer, the last one gives
    an answer with each replay; of a work of one stage both are true.
    """

    name: str
    part: str
    programs: tuple[Program, ...]
    extents: Extents = ()

    def program(self, tokens: int) -> Program:
        """The narrowest recording that holds `tokens`, or the widest there is."""
        for program in self.programs:
            if program.bound("tokens") >= tokens:
                return program
        return self.programs[-1]

    @property
    def widest(self) -> Program:
        """The program that holds every replay of the workload."""
        return self.program(max(extent.tokens for extent, _ in self.extents))


@dataclass(frozen=True, slots=True)
class Work:
    """Everything that will be computed, stage by stage.

    Works of the same `key` (None: no promise) have the same buffers with the same lives but for their weights, and so
    the same layout.
    """

    stages: tuple[Stage, ...]
    key: Hashable = None

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def programs(self) -> Iterator[Program]:
        for stage in self.stages:
            yield from stage.programs
