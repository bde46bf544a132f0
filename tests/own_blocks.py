"""A user's own module with blocks that no recording can hold: one decides by values, one computes with numpy."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

WIDTH, LENGTH = 64, 24


class Gate(nn.Module):
    """What it computes depends on the values that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("order", torch.arange(WIDTH - 1, -1, -1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + torch.relu(self.inner(x))
        return x.index_select(-1, self.order)


class Cube(torch.autograd.Function):
    """Python of somebody's own, with a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy() ** 3)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grads[0]


class Cubed(nn.Module):
    def forward(self, x: torch.Tensor, *, scale: float) -> dict[str, torch.Tensor]:
        return {"cubed": Cube.apply(x) * scale}


class Layer(nn.Module):
    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.gate = Gate() if gated else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(x + self.down(nn.functional.gelu(self.up(self.norm(x)))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(gated) for gated in (False, True))
        self.cubed = Cubed()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.cubed(x, scale=0.5)["cubed"]
