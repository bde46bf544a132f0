"""Measured blocks of a bound recording: the code of a module that the user gave, over our memory instead of its own."""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from pintpot.errors import BadPack, UsageError, need
from pintpot.kernels.torch.bind import Memory
from pintpot.program.ops.aten import View
from pintpot.program.spec import Op

KNOWN: weakref.WeakValueDictionary[str, nn.Module] = weakref.WeakValueDictionary()
"""Modules that this process adapted, by the digests of their models."""
Call = Callable[[], None]


def bind_block(op: Op, module: nn.Module, memory: Memory) -> Call:
    """A call of a measured block of `module` that writes what it gives where it is wanted.

    Raises UsageError for another module than was measured, BadPack for arguments that cannot be.
    """
    own = [name for role, name in op.reads if role == "own"]
    shapes = zip(op.get("names"), own, op.get("shapes"), strict=True)
    tensors = {name: memory.view(at, _whole(dtype, tuple(sizes))) for name, at, (dtype, sizes) in shapes}
    given = [name for role, name in op.reads if role == "tensor"]
    inputs = [memory.view(name, view) for name, view in zip(given, op.get("views"), strict=True)]
    outs = [memory.view(name, view) for (_, name), view in zip(op.writes, op.get("outs"), strict=True)]
    path = str(op.get("block"))
    block = _over(module, path, tensors)
    try:
        args, kwargs = _value(json.loads(op.get("args")), inputs)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BadPack(f"a measured block is called with {op.get('args')!r:.60}") from error

    def call() -> None:
        made = [one for one in tree_leaves(block(*args, **kwargs)) if isinstance(one, torch.Tensor)]
        same = [one.shape for one in made] == [one.shape for one in outs]
        need(same, f"{path} gives tensors of other shapes than when it was measured", UsageError)
        for out, one in zip(outs, made, strict=True):
            out.copy_(one)

    return call


def _over(module: nn.Module, path: str, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The block of a module, over these tensors instead of its own."""
    try:
        block = module.get_submodule(path)
    except AttributeError as error:
        raise UsageError(f"{type(module).__name__} has no {path}; this is another module than was adapted") from error
    memo: dict[int, Any] = {}
    for name, one in (*module.named_parameters(), *module.named_buffers()):
        if name in tensors:
            same = one.shape == tensors[name].shape
            need(same, f"{name} is {tuple(one.shape)}, and was {tuple(tensors[name].shape)}", UsageError)
            memo[id(one)] = nn.Parameter(tensors[name], False) if isinstance(one, nn.Parameter) else tensors[name]
    lacking = [name for name, one in (*block.named_parameters(), *block.named_buffers()) if id(one) not in memo]
    need(not lacking, f"{path} has {', '.join(lacking[:3])}, which it had not when it was measured", UsageError)
    return copy.deepcopy(block, memo).eval()


def _value(item: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """The same tree again."""
    if not isinstance(item, Mapping):
        return item
    ((kind, inner),) = item.items()
    if kind == "t":
        return tensors[inner]
    if kind == "dict":
        return {key: _value(one, tensors) for key, one in inner.items()}
    return {"tuple": tuple, "list": list}[kind](_value(one, tensors) for one in inner)


def _whole(dtype: str, sizes: tuple[int, ...]) -> View:
    return dtype, sizes, tuple(prod(sizes[at + 1 :]) for at in range(len(sizes))), 0
