"""Convolutions whose way back sees means over patches of the gradient of what they gave (arXiv:2301.00330).

Of a gradient g [B, N, *out] the mean over every patch of r x r places takes the place of the values in it; all else is
exact: the gradients are those that a plain convolution has for such a g. With i = r P + a the place a of patch P,

    dw[u] = sum_P mean_g[P] X[r s P + d u - p],  X[t] = sum_a x[t + s a]    (x is zero beyond its ends)
    dx[t] = sum of mean_g[P] w[u] over all P, a, u with s (r P + a) + d u - p = t

along each axis, with step s, dilation d and padding p: dw is a convolution's own gradient with a step of r s, by an
input of sums; of dx products are those of a patch with each tap, the rest are sums. Of the input X alone may be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import torch
from torch.nn import functional

from pintpot.program.filtering import patch_of
from pintpot.program.spec import Op

Sizes = Sequence[int]
_AT_ONCE = 1 << 20
"""Values of products that are there at a time: as many pictures as have so many, and one at least."""


def filtered_convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, steps: Sizes, around: Sizes, dilations: Sizes,
    groups: int, r: int, summed: bool = False,
) -> torch.Tensor:  # fmt: skip
    """x [B, C, H, W] -> [B, N, *out]; see the head of this file for its gradients. Where it is `summed` on the way
    forward, sums are kept of the input and not itself."""
    how = (tuple(steps), tuple(around), tuple(dilations), groups)
    found: torch.Tensor = _Filtered.apply(x, weight, bias, how, r, summed)  # type: ignore[no-untyped-call]
    return found


def convolution(op: Op, r: int) -> Callable[..., torch.Tensor]:
    """What computes a recorded convolution that is filtered."""

    def call(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, steps: Sizes, around: Sizes,
        dilations: Sizes, turned: bool, beyond: Sizes, groups: int,
    ) -> torch.Tensor:  # fmt: skip
        return filtered_convolution(x, weight, bias, steps, around, dilations, groups, r, bool(op.get("sums")))

    return call


def bounded(x: torch.Tensor, low: float = 0.0, high: float = inf) -> torch.Tensor:
    """x between two bounds, as relu and hardtanh have it: where it lay between them is all that is kept of it."""
    found: torch.Tensor = _Bounded.apply(x, low, high)  # type: ignore[no-untyped-call]
    return found


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: torch.Tensor, low: float, high: float) -> torch.Tensor:
        context.save_for_backward((x > low) & (x < high))
        return x.clamp(low, high)

    @staticmethod
    def backward(context: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grads[0] * context.saved_tensors[0], None, None


class _Filtered(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, how: tuple[Any, ...], r: int,
        summed: bool,
    ) -> torch.Tensor:  # fmt: skip
        out: torch.Tensor = _convolution(x, weight, bias, how)
        patch = patch_of(out.shape[2:], weight.shape[2:], r)
        context.how, context.patch, context.given = how, patch, x.shape
        sums = None
        if context.needs_input_grad[1]:
            sums = _sums(x, weight.shape[2:], patch, how) if summed else x
        context.summed = sums is not x
        context.save_for_backward(weight, sums)
        return out

    @staticmethod
    def backward(context: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, sums = context.saved_tensors
        grad, patch, how = grads[0], context.patch, context.how
        mean = _means(grad, patch)
        by_x = by_weight = by_bias = None
        if context.needs_input_grad[0]:
            by_x = _by_input(mean, weight, context.given, patch, how)
        if context.needs_input_grad[1]:
            own = sums if context.summed else _sums(sums, weight.shape[2:], patch, how)
            by_weight = _by_weight(mean, own, weight, patch, how)
        if context.needs_input_grad[2]:
            by_bias = grad.sum(dim=(0, *range(2, grad.dim())))
        return by_x, by_weight, by_bias, None, None, None


def _convolution(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, how: tuple[Any, ...]) -> Any:
    steps, around, dilations, groups = how
    return torch.ops.aten.convolution.default(
        x, weight, bias, steps, around, dilations, False, [0] * len(steps), groups
    )


def _means(grad: torch.Tensor, patch: Sizes) -> torch.Tensor:
    if all(size == 1 for size in patch):
        return grad
    return functional.avg_pool2d(grad, tuple(patch))


def _sums(x: torch.Tensor, kernel: Sizes, patch: Sizes, how: tuple[Any, ...]) -> torch.Tensor:
    """X at the places that gradients of the kernel ask for: [B, C, *(taps of a patch, one patch after the other)]."""
    steps, around, dilations, _ = how
    for axis, (taps, r, step, before, dilation) in enumerate(
        zip(kernel, patch, steps, around, dilations, strict=True), 2
    ):
        if before:
            x = functional.pad(x, (*[0, 0] * (x.dim() - 1 - axis), before, before))
        patches = (x.shape[axis] - dilation * (taps - 1) - 1) // step + 1
        patches //= r
        sizes = list(x.shape)
        sizes[axis] = patches * taps
        made = torch.empty(sizes, dtype=x.dtype, memory_format=torch.channels_last)
        for u in range(taps):
            own = made[_every(axis, u, patches, taps)]
            parts = [x[_every(axis, dilation * u + step * a, patches, r * step)] for a in range(r)]
            if r == 1:
                own.copy_(parts[0])
                continue
            torch.add(parts[0], parts[1], out=own)
            for part in parts[2:]:
                own.add_(part)
        x = made
    return x


def _every(axis: int, first: int, count: int, apart: int) -> tuple[slice, ...]:
    """So many places of an axis, from one on, and so far apart."""
    return (*(slice(None) for _ in range(axis)), slice(first, first + apart * (count - 1) + 1, apart))


def _by_weight(
    mean: torch.Tensor, sums: torch.Tensor, weight: torch.Tensor, patch: Sizes, how: tuple[Any, ...]
) -> torch.Tensor:
    """As taps of a patch lie side by side, this is the gradient of a convolution that steps over whole kernels."""
    _, _, _, groups = how
    axes = len(patch)
    steps, none, one = list(weight.shape[2:]), [0] * axes, [1] * axes
    found = torch.ops.aten.convolution_backward(
        mean, sums, weight, None, steps, none, one, False, none, groups, [False, True, False]
    )
    return torch.as_tensor(found[1])


def _by_input(
    mean: torch.Tensor, weight: torch.Tensor, given: Sizes, patch: Sizes, how: tuple[Any, ...]
) -> torch.Tensor:
    """A product for each patch and tap, which then goes to all places that it meets, one axis after the other."""
    steps, around, dilations, groups = how
    if all(size == 1 for size in weight.shape[2:]) and not any(around):
        return _spread(mean, weight, given, patch, how)
    (many, channels, *sizes), (high, wide), taps = given, mean.shape[2:], weight.shape[2:]
    # [groups, N of one, taps, taps, C of one]: all channels of a tap lie side by side.
    kernel = weight.view(groups, -1, *weight.shape[1:]).permute(0, 1, 3, 4, 2).flatten(2)
    rows = mean.permute(0, 2, 3, 1).reshape(many, high * wide, groups, -1)
    found = mean.new_empty((many, *sizes, channels))
    each = max(1, _AT_ONCE // (high * wide * taps[0] * taps[1] * channels))
    for first in range(0, many, each):
        own = rows[first : first + each]
        made = torch.matmul(own.flatten(0, 1).transpose(0, 1), kernel)
        made = made.view(groups, len(own), high, wide, *taps, -1).permute(1, 2, 3, 4, 5, 0, 6).flatten(-2)
        knobs = zip(sizes, patch, steps, around, dilations, strict=True)
        for axis, (size, r, step, before, dilation) in reversed(list(enumerate(knobs, 1))):
            made = _over_patches(
                made,
                axis,
                size,
                r * step,
                [dilation * u - before for u in range(taps[axis - 1])],
                [step * a for a in range(r)],
            )
        found[first : first + each] = made
    return found.permute(0, 3, 1, 2)


def _over_patches(
    x: torch.Tensor, axis: int, size: int, apart: int, taps: Sequence[int], places: Sequence[int]
) -> torch.Tensor:
    """x [.., patches, .., taps, C] summed where patch * apart + (one of `taps`) + (one of `places`) lies on `axis`."""
    shape = [*x.shape[:-2], x.shape[-1]]
    patches, shape[axis] = shape[axis], size
    found = x.new_zeros(shape)
    for u, tap in enumerate(taps):
        for place in places:
            low = max(0, -(-(-tap - place) // apart))
            high = min(patches, (size - 1 - tap - place) // apart + 1)
            if high > low:
                own = found[_every(axis, tap + place + apart * low, high - low, apart)]
                own += x.select(-2, u).narrow(axis, low, high - low)
    return found


def _spread(mean: torch.Tensor, weight: torch.Tensor, given: Sizes, patch: Sizes, how: tuple[Any, ...]) -> torch.Tensor:
    """The same of kernels of one place: computed once for a patch, and there for all of its places."""
    steps, groups = how[0], how[3]
    axes = len(patch)
    small = list(mean.shape[2:])
    none, one = [0] * axes, [1] * axes
    like = mean.new_empty(1).expand((given[0], given[1], *small))
    made = torch.ops.aten.convolution_backward(
        mean, like, weight, None, one, none, one, False, none, groups, [True, False, False]
    )[0]
    for axis, r in enumerate(patch, 2):
        made = made.repeat_interleave(r, dim=axis) if r > 1 else made
    if all(step == 1 for step in steps) and tuple(made.shape) == tuple(given):
        return torch.as_tensor(made)
    whole = made.new_zeros(given)
    at = [slice(0, step * (size - 1) + 1, step) for step, size in zip(steps, made.shape[2:], strict=True)]
    whole[(slice(None), slice(None), *at)] = made
    return torch.as_tensor(whole)
