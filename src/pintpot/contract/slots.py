"""Slots: the few places of an opened pack where a technique may put a function of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pintpot.contract.tutor import Tutor
from pintpot.contract.updating import Updating
from pintpot.program.spec import Op


def keep_everything(position: int) -> tuple[tuple[int, int], ...]:
    """The cache keeps every position."""
    return ((0, position),)


@dataclass(slots=True)
class Slots:
    """Filled by `Step.install` at every opening of a pack.

    `cache_keep(position)` gives the ranges [first, stop) of positions that a query at `position` may still see; pages
    that lie outside are given back. `tutors` sit beside a model that learns, in the order of the steps, and
    `updating` takes the optimizer's steps. `calls` are asked, by the name of an operator of PyTorch, what computes an
    op of a recording that learns in its place, None where that stays.
    """

    cache_keep: Callable[[int], tuple[tuple[int, int], ...]] = field(default=keep_everything)
    tutors: list[Tutor] = field(default_factory=list)
    updating: Updating = field(default_factory=Updating)
    calls: dict[str, Callable[[Op], Callable[..., Any] | None]] = field(default_factory=dict)
