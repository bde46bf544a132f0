"""One file per op: which shapes it takes and what it asks of a machine. The file name is the op's kind.

Each module has `check(op, program)`, which raises UsageError when shapes disagree,
`demand(op, program, extent) -> Demand`, and `depends(op, program, extent)`: what of an extent the demand depends on.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Hashable, Iterator
from functools import cache
from typing import Protocol, cast

from pintpot.errors import UsageError, need
from pintpot.program.demand import Demand
from pintpot.program.spec import Extent, Op, Program


class OpModule(Protocol):
    """What each module of this folder offers."""

    def check(self, op: Op, program: Program) -> None: ...

    def demand(self, op: Op, program: Program, extent: Extent) -> Demand: ...

    def depends(self, op: Op, program: Program, extent: Extent) -> Hashable: ...


def kinds() -> Iterator[str]:
    """The kinds of ops there are: the files of this folder."""
    return (module.name for module in pkgutil.iter_modules(__path__))


@cache
def op_module(kind: str) -> OpModule:
    """The module of an op's kind. Raises UsageError for a kind without a file."""
    name = f"{__name__}.{kind}"
    try:
        return cast(OpModule, importlib.import_module(name))
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UsageError(f"there is no op {kind!r}; there are {', '.join(sorted(kinds()))}") from error


def check(program: Program) -> None:
    """Raise UsageError unless every op of a program finds its buffers in the right shapes."""
    for op in program.ops:
        for _, name in (*op.reads, *op.writes):
            need(name in program.by_name, f"{program.name}: {op.kind} names {name!r}, which is no buffer", UsageError)
        op_module(op.kind).check(op, program)
