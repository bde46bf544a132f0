"""Several adapters where plain LoRA has one: how many stand beside a weight, and what says how much each counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LORA_A, LORA_B = ".lora_a", ".lora_b"
"""Behind the name of a weight: the two matrices of its adapter, [r, K] and [N, r]; of several [E, r, K], [E, N, r]."""
ROUTER = ".scores"
"""Behind the name of the gate: what scores experts for a token, [E, K]."""
ROUTES = ".routes"
"""Behind the name of a weight: how much each task wants each adapter, for each part of it, [tasks, heads, E]."""
BESIDE = (LORA_A, LORA_B, ROUTER, ROUTES)
"""How the names of what learns beside a weight end."""
EXPERTS, HEADS = "experts", "heads"
FFN_ROLES = ("gate", "up", "down")
GATE = "gate"


@dataclass(frozen=True, slots=True)
class Routing:
    """`count` adapters, of which the data choose.

    EXPERTS: beside gate, up and down of a layer; each token takes the `chosen` that a router scores highest, and
    `balance` times how unevenly tokens choose is added to the loss. Other weights have one adapter.
    HEADS: beside every weight; columns of A and rows of B fall into `heads` parts, of each of which each of `tasks` has
    its own mean of the adapters.
    """

    kind: str
    count: int
    chosen: int = 0
    balance: float = 0.0
    heads: int = 1
    tasks: int = 1

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Routing:
        return cls(**data)

    def routes(self, role: str) -> bool:
        """Whether there are several adapters beside weights of this role."""
        return self.kind == HEADS or role in FFN_ROLES

    def beside(self, role: str, shape: tuple[int, ...], rank: int) -> dict[str, tuple[int, ...]]:
        """Ends of names and shapes of what learns beside a weight of so many rows and columns."""
        rows, columns = shape
        if not self.routes(role):
            return {LORA_A: (rank, columns), LORA_B: (rows, rank)}
        found: dict[str, tuple[int, ...]] = {LORA_A: (self.count, rank, columns), LORA_B: (self.count, rows, rank)}
        if self.kind == HEADS:
            found[ROUTES] = (self.tasks, self.heads, self.count)
        elif role == GATE:
            found[ROUTER] = (self.count, columns)
        return found
