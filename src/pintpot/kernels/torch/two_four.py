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


def chances(grad: torch.Tensor) -> torch.Tensor:
    """Of every four values [4, ...] the chances with which two are kept, so that x / chance varies least around x.

    They are in proportion to the magnitudes, and one that is larger than all others together is kept always.
    """
    sizes = grad.abs()
    whole, most = sizes.sum(dim=0), sizes.amax(dim=0)
    rest = whole - most
    tiny = torch.finfo(sizes.dtype).tiny
    alone = most > rest
    found = torch.where(alone, sizes / rest.clamp_min(tiny), 2 * sizes / whole.clamp_min(tiny))
    return found.clamp_max(1.0)


def estimated(grad: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """An unbiased estimate of float32 [T, N] that has two values of any four tokens below each other, [T, N].

    It is the one of least variance (Chmiel et al. 2023, arXiv:2203.10991): with one number u that is drawn evenly for
    four values, those are kept at which the sum of chances passes u and 1 + u, over their chances. Tokens beyond whole
    fours are as they were.
    """
    fours = len(grad) // GROUP
    found = grad.clone()
    grouped = grad[: fours * GROUP].view(fours, GROUP, grad.shape[1]).transpose(0, 1)
    likely = chances(grouped)
    u = torch.rand(grouped.shape[1:], generator=draw)
    # The sum of all is a whole number, but for rounding.
    last = torch.ceil(likely.sum(dim=0).round() - u)
    passed = torch.ceil(likely.cumsum(dim=0) - u).minimum(last)
    passed[-1] = last
    kept = passed.diff(dim=0, prepend=torch.ceil(-u)[None]) > 0
    made = torch.where(kept, grouped / likely.clamp_min(torch.finfo(grad.dtype).tiny), torch.zeros(()))
    found[: fours * GROUP].view(fours, GROUP, grad.shape[1]).transpose(0, 1).copy_(made)
    return found


def two_of_four(grad: torch.Tensor) -> torch.Tensor:
    """Such an estimate of a gradient [T, N], drawn by a generator that its own bits begin.

    A start that goes on draws as the first one did.
    """
    own = grad.float().contiguous()
    seed = int(own.view(torch.int32).sum(dtype=torch.int64)) & ((1 << 62) - 1)
    return estimated(own, torch.Generator().manual_seed(seed)).to(grad.dtype)
