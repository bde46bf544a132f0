"""Experts of a layer as one weight each for gate, up and down: their rows lie one expert below the other.

Files hold a tensor for each expert, or one of three axes; of those some hold gate and up of an expert side by side. No
byte is moved: a weight knows where each stretch of its rows lies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pintpot.errors import BadFile, UnsupportedModel, need
from pintpot.model.fused import FUSED
from pintpot.model.spec import Weight

STRIP_ROWS = 16
"""Packed rows come in strips, and a strip belongs to one expert."""
_OF_EXPERT = re.compile(r"(layers\.\d+\.\w+)\.(\d+)")


def put_together(weights: Mapping[str, Weight], config: Mapping[str, Any], where: str) -> dict[str, Weight]:
    """The same weights, with those of the experts put together; unchanged for a configuration without experts.

    Raises BadFile where experts are missing or differ, UnsupportedModel where their rows are no whole strips.
    """
    count = config.get("num_experts")
    if count is None:
        return dict(weights)
    for key in ("intermediate_size", "hidden_size"):
        why = f"{where}: {key} is {config[key]}; of experts multiples of {STRIP_ROWS} run here"
        need(config[key] % STRIP_ROWS == 0, why, UnsupportedModel)
    found: dict[str, Weight] = {}
    single: dict[str, dict[int, Weight]] = {}
    for name, weight in weights.items():
        match = _OF_EXPERT.fullmatch(name)
        if match:
            single.setdefault(match[1], {})[int(match[2])] = weight
        elif len(weight.shape) == 3:
            found.update(_sides(name, weight, count, where))
        else:
            found[name] = weight
    for name, parts in single.items():
        need(name not in found, f"{where}: {name} comes twice", BadFile)
        found[name] = _joined(name, parts, count, where)
    return found


def _joined(name: str, parts: Mapping[int, Weight], count: int, where: str) -> Weight:
    there = sorted(parts) == list(range(count))
    need(there, f"{where}: {name} is there of {len(parts)} experts; the configuration says {count}", BadFile)
    ordered = [parts[number] for number in range(count)]
    first = ordered[0]
    alike = all((one.shape, one.dtype) == (first.shape, first.dtype) for one in ordered) and len(first.shape) == 2
    need(alike, f"{where}: {name} is not a matrix of one shape and type in all experts", BadFile)
    rows, columns = first.shape
    runs = tuple((one.file, one.offset, rows) for one in ordered)
    num_bytes = sum(one.num_bytes for one in ordered)
    return replace(first, name=name, shape=(count * rows, columns), num_bytes=num_bytes, experts=count, runs=runs)


def _sides(name: str, weight: Weight, count: int, where: str) -> dict[str, Weight]:
    """A tensor [experts, rows, columns]; gate and up lie side by side in each expert of one that holds both."""
    num, rows, columns = weight.shape
    need(num == count, f"{where}: {name} holds {num} experts; the configuration says {count}", BadFile)
    layer, _, role = name.rpartition(".")
    sides = FUSED.get(role, (role,))
    each, odd = divmod(rows, len(sides))
    need(odd == 0, f"{where}: the {rows} rows of {name} are no {len(sides)} equal parts", BadFile)
    if len(sides) == 1:
        return {name: replace(weight, shape=(num * rows, columns), experts=count)}
    row_bytes = weight.num_bytes // (num * rows)
    found = {}
    for index, side in enumerate(sides):
        begins = [weight.offset + (rows * number + each * index) * row_bytes for number in range(num)]
        runs = tuple((weight.file, begin, each) for begin in begins)
        found[f"{layer}.{side}"] = Weight(
            f"{layer}.{side}", (num * each, columns), weight.dtype, weight.file, begins[0], num * each * row_bytes,
            experts=count, runs=runs,
        )  # fmt: skip
    return found
