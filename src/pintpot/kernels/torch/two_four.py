"""Two of four: of any four values side by side in a row two at most are not zero."""

from __future__ import annotations

import torch

GROUP = 4


def magnitudes_below(weight: torch.Tensor) -> torch.Tensor:
    """The second smallest magnitude of every four values of weight [N, K]: [N, K/4, 1]."""
    a, b, c, d = weight.abs().view(len(weight), -1, GROUP).unbind(-1)
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    other_low, other_high = torch.minimum(c, d), torch.maximum(c, d)
    second = torch.minimum(torch.maximum(low, other_low), torch.minimum(high, other_high))
    return second[..., None]


def softened(weight: torch.Tensor) -> torch.Tensor:
    """Every four values of weight [N, K] nearer to zero by the second smallest magnitude of them; those below are 0."""
    grouped, second = weight.view(len(weight), -1, GROUP), magnitudes_below(weight)
    return (grouped - torch.clamp(grouped, -second, second)).view(weight.shape)


def smaller_half(weight: torch.Tensor) -> torch.Tensor:
    """Where the two smallest magnitudes of every four values are, bool [N, K]; of equal ones those that come later."""
    order = weight.abs().view(len(weight), -1, GROUP).argsort(dim=-1, descending=True, stable=True)
    mask = torch.zeros(order.shape, dtype=torch.bool)
    return mask.scatter_(-1, order[..., GROUP // 2 :], True).view(weight.shape)


def is_two_four(weight: torch.Tensor) -> bool:
    """Whether weight [N, K] has two zeros at least among every four values."""
    return bool(((weight.view(len(weight), -1, GROUP) == 0).sum(dim=-1) >= GROUP // 2).all())
