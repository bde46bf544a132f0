"""What adapters add to a product, in float32: of several for each task its own mean."""

from __future__ import annotations

import torch
from torch.nn import functional

Memory = dict[str, torch.Tensor]
LORA_A, LORA_B, ROUTER, ROUTES = ".lora_a", ".lora_b", ".scores", ".routes"
"""Behind the name of a weight, as `contract.routing` has them."""


def alone(name: str, memory: Memory) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A and B of a weight that has one adapter."""
    a, b = memory.get(name + LORA_A), memory.get(name + LORA_B)
    return None if a is None or b is None or name + ROUTES in memory else (a, b)


def added(name: str, rows: torch.Tensor, memory: Memory, tasks: torch.Tensor | None) -> torch.Tensor | None:
    """What several adapters of a weight give for rows [T, K]: float32 [T, N]; None where it has no such.

    `tasks` [T] are the rows' own, None where there is one.
    """
    a, b, routes = (memory.get(name + end) for end in (LORA_A, LORA_B, ROUTES))
    if a is None or b is None or routes is None:
        return None
    rows = rows.float()
    if tasks is None:
        return functional.linear(functional.linear(rows, mean_a(a, routes[0])), mean_b(b, routes[0]))
    out = rows.new_zeros(len(rows), b.shape[1])
    for task in torch.unique(tasks).tolist():
        own = (tasks == task).nonzero().flatten()
        inner = functional.linear(rows[own], mean_a(a, routes[task]))
        out = out.index_add(0, own, functional.linear(inner, mean_b(b, routes[task])))
    return out


def shares(routes: torch.Tensor) -> torch.Tensor:
    """How much of each adapter a task takes, for each head: sigmoids [H, E], scaled to a sum of 1 over adapters."""
    wanted = torch.sigmoid(routes)
    return wanted / wanted.sum(dim=-1, keepdim=True)


def mean_a(a: torch.Tensor, routes: torch.Tensor) -> torch.Tensor:
    """A [r, K] of a task, from all A [E, r, K]: of each part of the columns the mean by the shares of its head."""
    count, rank, columns = a.shape
    parts = a.view(count, rank, len(routes), -1)
    return torch.einsum("he,erhk->rhk", shares(routes), parts).reshape(rank, columns)


def mean_b(b: torch.Tensor, routes: torch.Tensor) -> torch.Tensor:
    """B [N, r] of a task, from all B [E, N, r]: of each part of the rows the mean by the shares of its head."""
    count, rows, rank = b.shape
    parts = b.view(count, len(routes), -1, rank)
    return torch.einsum("he,ehnr->hnr", shares(routes), parts).reshape(rows, rank)
