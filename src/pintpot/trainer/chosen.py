"""The adapters that somebody asks for, as a step of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from pintpot.contract.step import Step
from pintpot.errors import UsageError, need

ADAPTERS = ("lora", "mixlora", "mhr")


@dataclass(frozen=True)
class Chosen:
    """Adapters of a kind: one beside a weight (lora), experts of the feed-forward network of which each token takes
    some (mixlora), or an inventory whose heads each task mixes in its own way (mhr)."""

    kind: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    targets: str = "q,v"
    count: int = 8
    taken: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        need(self.kind in ADAPTERS, f"no adapters {self.kind!r}; there are {', '.join(ADAPTERS)}", UsageError)

    def step(self, num_tasks: int) -> Step:
        """The step that promises them, for examples of so many tasks."""
        from pintpot.techniques.adapt.low_rank import LowRank
        from pintpot.techniques.adapt.mixture_of_adapters import MixtureOfAdapters
        from pintpot.techniques.adapt.routed_heads import RoutedHeads

        rank, alpha, roles = self.rank, self.alpha, self.targets
        if self.kind == "mixlora":
            return MixtureOfAdapters(rank=rank, alpha=alpha, roles=roles, experts=self.count, chosen=self.taken)
        if self.kind == "mhr":
            return RoutedHeads(
                rank=rank, alpha=alpha, roles=roles, adapters=self.count, heads=self.heads, tasks=num_tasks
            )
        return LowRank(rank=rank, alpha=alpha, roles=roles)
