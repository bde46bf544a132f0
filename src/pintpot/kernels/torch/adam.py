"""One step of AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) on values that lie on any one device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import inf, sqrt

import torch

BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass(frozen=True, slots=True)
class Rates:
    """The length of a step, and by what the means of the first steps are too small."""

    rate: float
    first: float = 1.0
    second: float = 1.0


def adam(value: torch.Tensor, grad: torch.Tensor, m: torch.Tensor, v: torch.Tensor, rates: Rates) -> None:
    """In place, on float32 [n] each: values, and the means of gradients and of their squares."""
    # Beyond all steps nothing is too small any more; by what it is now, the rate and what is added to roots make up.
    root = sqrt(rates.second)
    torch._fused_adamw_(
        [value], [grad], [m], [v], [], [_beyond(value.device)], lr=rates.rate * root / rates.first,
        beta1=BETAS[0], beta2=BETAS[1], weight_decay=0.0, eps=EPS * root, amsgrad=False, maximize=False,
    )  # fmt: skip


@cache
def _beyond(device: torch.device) -> torch.Tensor:
    return torch.tensor(inf, device=device)
