"""Examples of a module's stages: what each is called with and how often, and inputs of other shapes that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from pintpot.errors import UsageError, need

Inputs = tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor] | torch.Tensor
DTYPES = (torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool)


@dataclass(frozen=True)
class Example:
    """One stage of a module: `method` is called with tensors of these shapes, `repeats` times for each request.

    That is a number, or the field of a workload that holds it ("output": once for each word of an answer). `others` are
    inputs of other shapes with which it may be called as well.
    """

    name: str
    inputs: Inputs
    method: str = "forward"
    repeats: int | str = 1
    others: tuple[Inputs, ...] = ()

    def all(self) -> Iterator[Example]:
        """Itself, and one of its own for each of the other shapes, under names that are made of its."""
        yield self
        for number, inputs in enumerate(self.others, 1):
            yield replace(self, name=f"{self.name}_{number}", inputs=inputs, others=())


def named_inputs(inputs: Inputs) -> dict[str, torch.Tensor]:
    """Inputs by name: keywords have their own, arguments the number of their place."""
    if isinstance(inputs, torch.Tensor):
        inputs = (inputs,)
    items = inputs.items() if isinstance(inputs, Mapping) else ((str(at), one) for at, one in enumerate(inputs))
    found = dict(items)
    for name, one in found.items():
        need(isinstance(one, torch.Tensor), f"input {name} is a {type(one).__name__}, not a tensor", UsageError)
        kind = one.dtype if not one.is_floating_point() else torch.float32
        need(kind in DTYPES, f"input {name} has the dtype {one.dtype}, which has no home here", UsageError)
    need(bool(found), "a module is recorded with example inputs; there are none", UsageError)
    return found


def nested(examples: Sequence[Example], stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stages with the recordings of their other shapes inside."""
    left = iter(stages)
    found = []
    for example in examples:
        stage, *others = islice(left, 1 + len(example.others))
        found.append({**stage, "others": others} if others else stage)
    return found
