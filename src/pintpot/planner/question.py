"""What is asked of the planner: this model, this machine, this budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pintpot.budget import Budget
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.planner.degradation import Priors
from pintpot.planner.plan import Degradation


@dataclass(frozen=True)
class Question:
    """`measured` maps the key of a plan's steps to the degradation that `prove` measured for them.

    `measured_bytes` does the same for holders of memory whose size no choice changes, by name.
    """

    model: Model
    machine: Machine
    budget: Budget
    priors: Priors
    measured: Mapping[str, Degradation] = field(default_factory=dict)
    measured_bytes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Threads that compute: what was asked for, or every core this process may use."""
        return self.budget.threads or self.machine.cpu.threads
