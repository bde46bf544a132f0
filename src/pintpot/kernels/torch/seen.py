"""What meets the weights of a module's leaves while it answers its example inputs: how large each column is.

The module itself runs once, where all of it has values; each layer tells what it was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

Sums = dict[int, list[Any]]


def seen(
    module: nn.Module, calls: Iterable[tuple[str, Mapping[str, torch.Tensor]]], weights: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Of each weight float32 [2, K]: the means of |x| and of x^2 over all rows that met it; without those met by none.

    `calls` are methods and their inputs by name, in order. {} where the module, or an input, has no values.
    """
    known = list(calls)
    everything = [*module.parameters(), *module.buffers(), *(one for _, inputs in known for one in inputs.values())]
    if any(one.is_meta for one in everything):
        return {}
    sums: Sums = {id(one): [] for one in weights.values()}
    training = [layer for layer in module.modules() if layer.training]
    with ExitStack() as closing, torch.inference_mode():
        for layer in module.modules():
            weight = layer._parameters.get("weight")
            if weight is not None and id(weight) in sums and not isinstance(layer, nn.Embedding):
                closing.callback(layer.register_forward_pre_hook(partial(_add, sums[id(weight)])).remove)
        for layer in training:
            closing.callback(setattr, layer, "training", True)
        module.eval()
        for method, inputs in known:
            named = {key: one for key, one in inputs.items() if not key.isdecimal()}
            called = module if method == "forward" else getattr(module, method)
            called(*(one for key, one in inputs.items() if key.isdecimal()), **named)
    return {name: _means(sums[id(one)], one) for name, one in weights.items() if sums[id(one)]}


def _add(sums: list[Any], layer: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
    """Sums over the rows of one call: of a convolution its channels, whatever the place."""
    x = given[0].float()
    weight = layer._parameters["weight"]
    axes = 0 if weight is None else weight.dim() - 2
    rows = x.movedim(-1 - axes, -1).reshape(-1, x.shape[-1 - axes])
    sums.append((len(rows), rows.abs().sum(0), rows.square().sum(0)))


def _means(sums: list[Any], weight: nn.Parameter) -> torch.Tensor:
    """The same for all of a kernel's places, whose channels lie side by side."""
    count = sum(rows for rows, _, _ in sums)
    means = torch.stack([sum(found[at] for found in sums) / count for at in (1, 2)])
    return means.repeat(1, weight.numel() // weight.shape[0] // weight.shape[1])
