"""What contenders of the vision case look at; every process draws the same. Needs torch alone."""

from __future__ import annotations

from typing import Any

SIDE = 224


def picture(batch: int) -> Any:
    """Drawn pixels [batch, 3, SIDE, SIDE]."""
    import torch

    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
