"""One step of AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) on values that lie on any one device."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

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
    m.lerp_(grad, 1 - BETAS[0])
    v.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
    value.addcdiv_(m, v.sqrt().div_(sqrt(rates.second)).add_(EPS), value=-rates.rate / rates.first)
