"""Texts of similar length meet in a call: of as many tokens as a planned one has, in more and shorter rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pintpot.runtime.kinds import About, side_by_side

NARROWEST: Final = 16
"""Tokens of the shortest rows."""


def narrower(batch: int, tokens: int) -> Iterator[dict[str, int]]:
    """Other shapes of a call, as many tokens in all: rows half as long, and half of that, and so on."""
    width = tokens // 2
    while width >= NARROWEST:
        yield {"batch": batch * tokens // width, "tokens": width}
        width //= 2


def calls(lengths: Sequence[int], about: About) -> Iterator[tuple[About, tuple[int, ...]]]:
    """The shape of each call and the texts that meet in it: each goes to the shortest rows that have room for it."""
    shapes = sorted(({**about, **one} for one in ({}, *about.get("narrower", ()))), key=lambda one: one["tokens"])
    least = -1
    for shape in shapes:
        rows = [row for row, length in enumerate(lengths) if least < length <= shape["tokens"]]
        least = shape["tokens"]
        for some in side_by_side(rows, shape["batch"]):
            yield shape, some
