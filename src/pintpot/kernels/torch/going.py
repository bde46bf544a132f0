"""Calls of a recording as autograd goes back through them: each gives new memory, and writes upon no other.

Of every buffer the values lie in a row, 1-D, in the order of the recorded memory; a call looks at them as its recording
says, by views that autograd knows. What changes memory in place is called in the form that does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from pintpot.errors import BadPack, need
from pintpot.kernels.torch.bind import argument, operator_of
from pintpot.program.ops.aten import View
from pintpot.program.spec import Op

Memory = dict[str, torch.Tensor]
Look = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Call:
    """One call: which operator, on which buffers, looked at how, and where its results go."""

    op: Op
    target: Callable[..., Any]
    args: Any
    kwargs: Mapping[str, Any]
    looks: tuple[tuple[str, Look], ...]
    lays: tuple[tuple[str, Look], ...]

    @property
    def reads(self) -> tuple[tuple[str, str], ...]:
        return self.op.reads

    @property
    def writes(self) -> tuple[tuple[str, str], ...]:
        return self.op.writes

    def run(self, memory: Memory) -> None:
        """Over a memory that has what it reads, and gains what it writes."""
        given = [look(memory[name].reshape(-1)) for name, look in self.looks]
        args = [argument(item, given) for item in self.args]
        result = self.target(*args, **{key: argument(item, given) for key, item in self.kwargs.items()})
        results = result if isinstance(result, tuple | list) else (result,)
        found = [one for one in results if isinstance(one, torch.Tensor)]
        for (name, lay), one in zip(self.lays, found, strict=False):
            memory[name] = lay(one)


def _nobody(op: Op) -> None:
    """An operator stays."""


Targets = Mapping[str, Callable[[Op], Callable[..., Any] | None]]
"""What takes the place of an operator, by its name with overload; told the op, for which there may be none."""


def call_of(op: Op, targets: Targets | None = None) -> Call:
    """An op made ready. Raises BadPack for an operator that this PyTorch has not."""
    call = str(op.get("call"))
    name, _, overload = call.partition(".")
    call = f"{name.removesuffix('_')}.{overload}"
    chosen = (targets or {}).get(call, _nobody)(op)
    target = operator_of(call) if chosen is None else chosen
    views, outs = op.get("views"), op.get("outs")
    looks = tuple((name, looked(view)) for (_, name), view in zip(op.reads, views, strict=True))
    lays = tuple((name, laid(view)) for (_, name), view in zip(op.writes, outs, strict=True))
    return Call(op, target, json.loads(op.get("args")), json.loads(op.get("kwargs")), looks, lays)


@lru_cache(maxsize=4096)
def looked(view: View) -> Look:
    """Values in a row as a view shows them: by plain views where they lie without gaps, by strides where not."""
    _, sizes, strides, offset = view
    axes = [at for at in range(len(sizes)) if sizes[at] != 1 and strides[at] != 0]
    ordered = sorted(axes, key=lambda at: -strides[at])
    count = 1
    for at in reversed(ordered):
        if strides[at] != count:
            return lambda flat: flat.as_strided(sizes, strides, flat.storage_offset() + offset)
        count *= sizes[at]
    shape = [sizes[at] for at in ordered]
    back = [ordered.index(at) for at in axes]
    places = tuple(slice(None) if at in axes else None for at in range(len(sizes)))

    def look(flat: torch.Tensor) -> torch.Tensor:
        whole = flat if offset == 0 and count == flat.numel() else flat[offset : offset + count]
        return whole.view(shape).permute(back)[places].expand(sizes)

    return look


@lru_cache(maxsize=4096)
def laid(view: View) -> Look:
    """What a call gave as values in a row, in the order in which the recording lays them."""
    _, sizes, strides, _ = view
    order = sorted(range(len(sizes)), key=lambda at: (-strides[at], at))
    return lambda one: one.permute(order).reshape(-1) if one.dim() == len(order) else one.reshape(-1)


def constants(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The constants of a recording, by their names there, their values in a row."""
    found = {}
    for name, one in config["constants"].items():
        kind = getattr(torch, str(one["dtype"]), None)
        need(isinstance(kind, torch.dtype), f"a constant of {one['dtype']!r:.40}", BadPack)
        values = [float(value) if isinstance(value, str) else value for value in one["values"]]
        found[name] = torch.tensor(values, dtype=kind)
    return found
