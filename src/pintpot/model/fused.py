"""Tensors of a file that hold several weights, one below the other: each weight is some of their rows, as they lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pintpot.errors import BadFile, need
from pintpot.model.shapes import layer_shapes
from pintpot.model.spec import Weight

FUSED: Final[Mapping[str, tuple[str, ...]]] = {"qkv": ("q", "k", "v"), "gate_up": ("gate", "up")}
"""Roles of such tensors, and the roles of the weights whose rows they hold, in order."""


def taken_apart(weights: Mapping[str, Weight], config: Mapping[str, Any], where: str) -> dict[str, Weight]:
    """The same weights, with each fused tensor's place taken by those that it holds. Raises BadFile for other rows."""
    shapes = layer_shapes(config)
    found: dict[str, Weight] = {}
    for name, weight in weights.items():
        layer, _, role = name.rpartition(".")
        parts = {f"{layer}.{one}": shapes[one] for one in FUSED.get(role, ())}
        found.update(_rows_of(weight, parts, where) if parts else {name: weight})
    return found


def _rows_of(weight: Weight, parts: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Weight]:
    expected = sum(shape[0] for shape in parts.values()), *next(iter(parts.values()))[1:]
    if weight.shape != expected:
        have, want = ("x".join(map(str, shape)) for shape in (weight.shape, expected))
        raise BadFile(f"{where}: {weight.name} is {have}, but the configuration makes it {want}")
    row_bytes, odd = divmod(weight.num_bytes, weight.shape[0])
    need(odd == 0 and row_bytes > 0, f"{where}: {weight.name} has no whole bytes in a row", BadFile)
    found, offset = {}, weight.offset
    for name, shape in parts.items():
        found[name] = Weight(name, shape, weight.dtype, weight.file, offset, shape[0] * row_bytes)
        offset += shape[0] * row_bytes
    return found
