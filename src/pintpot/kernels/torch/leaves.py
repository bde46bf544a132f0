"""Layers whose weights are packed, while a module is recorded: stand-ins that tell the trace that they were called.

A linear layer, a convolution without groups, and a table that words are looked up in. Convolutions of groups stay calls
of ATen: those of one channel each, which most of them are, have a hundredth of a network's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pintpot.kernels.torch.trace import Trace

LEAVES = ("linear", "embed")
"""Kinds of ops that leaves are recorded as."""
Names = tuple[str, str | None]
"""Of the weight, and of the bias where there is one."""


class Leaf(nn.Module):
    """What stands in for a layer: it has its parameters, and whatever else others may ask a layer for."""

    weight: nn.Parameter

    def __init__(self, original: Any, names: Names, trace: list[Trace]) -> None:
        super().__init__()
        for name in original.__constants__:
            setattr(self, name, getattr(original, name))
        self.weight, self.bias = original.weight, getattr(original, "bias", None)
        self._names, self._trace = names, trace


class Linear(Leaf):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._trace[0].linear(x, *self._names, self.weight.shape[0])


class Embedding(Leaf):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        num_words, width = self.weight.shape
        return self._trace[0].embed(ids, self._names[0], num_words, width)


class Convolution(Leaf):
    def __init__(self, original: Any, names: Names, trace: list[Trace]) -> None:
        super().__init__(original, names, trace)
        self._around, self._mode = original._reversed_padding_repeated_twice, original.padding_mode
        before = [0] * len(original.kernel_size) if self._mode != "zeros" else self._around[::-2]
        self._along = list(zip(original.kernel_size, original.stride, before, original.dilation, strict=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._mode != "zeros":
            x = nn.functional.pad(x, self._around, mode=self._mode)
        batched = x.dim() == len(self._along) + 2
        out = self._trace[0].convolution(x if batched else x[None], *self._names, self.weight.shape[0], self._along)
        return out if batched else out[0]


def _even(convolution: Any) -> bool:
    """Whether a convolution has no groups, and as many zeros behind a picture as before it."""
    around = convolution._reversed_padding_repeated_twice
    same = convolution.padding_mode != "zeros" or around[::2] == around[1::2]
    return bool(convolution.groups == 1 and same)


_KINDS: dict[type[nn.Module], tuple[type[Leaf], Callable[[Any], bool]]] = {
    nn.Linear: (Linear, lambda layer: True),
    nn.Embedding: (Embedding, lambda layer: layer.max_norm is None),
    nn.Conv1d: (Convolution, _even),
    nn.Conv2d: (Convolution, _even),
    nn.Conv3d: (Convolution, _even),
}


def replace_leaves(
    swapped: nn.Module, module: nn.Module, named: Mapping[int, str], excluded: Collection[str], trace: list[Trace]
) -> nn.Module:
    """The copy of a module with stand-ins for all layers that can be packed.

    Those are the only users of their weights, which are none of `excluded`; layers may share one, as a table of words
    and a head do. `named` are parameters of `module` by identity.
    """
    originals = dict(module.named_modules(remove_duplicate=False))
    others = {id(one) for layer in module.modules() for one in _not_packed(layer)}
    for path, child in list(swapped.named_modules()):
        original = originals[path]
        if not _is_leaf(child) or id(original.weight) in others or named[id(original.weight)] in excluded:
            continue
        bias = getattr(original, "bias", None)
        names = named[id(original.weight)], None if bias is None else named[id(bias)]
        leaf = _KINDS[type(child)][0](child, names, trace)
        if not path:
            return leaf
        parent, _, name = path.rpartition(".")
        swapped.get_submodule(parent)._modules[name] = leaf
    return swapped


def _is_leaf(layer: nn.Module) -> bool:
    return type(layer) in _KINDS and _KINDS[type(layer)][1](layer)


def _not_packed(layer: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters that a layer uses otherwise than a leaf does its weight."""
    for name, one in layer._parameters.items():
        if one is not None and not (name == "weight" and _is_leaf(layer)):
            yield one


def canonical(stages: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Names for the weights of recorded leaves, whose last words say how they are used (`pintpot.contract.form`).

    A table that rows are looked up in and nothing else, one that is multiplied with as well, and what a stage
    multiplies with several times; a weight that is multiplied with once keeps its name.
    """
    leaves = [[op for op in ops if op["kind"] in LEAVES] for ops in stages]
    found: dict[str, str] = {}
    for name in dict.fromkeys(op["weight"] for ops in leaves for op in ops):
        times = max(sum(op["weight"] == name and op["kind"] == "linear" for op in ops) for ops in leaves)
        looked_up = any(op["weight"] == name and op["kind"] == "embed" for ops in leaves for op in ops)
        role = "shared" if times > 1 else "head" if times and looked_up else "embed" if looked_up else ""
        found[name] = f"{name.rpartition('.')[0] or 'module'}.{role}" if role else name
    return found
