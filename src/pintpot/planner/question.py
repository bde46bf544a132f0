"""What is asked of the planner: this model, this machine, this budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from pintpot.budget import Budget
from pintpot.contract.form import source_form
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.planner.degradation import Expectations, Priors
from pintpot.planner.plan import Degradation
from pintpot.planner.sensitivity import Sensitivities


@dataclass(frozen=True)
class Question:
    """`measured` maps the key of a plan's steps to the degradation that `prove` measured for them.

    `measured_bytes` does the same for holders of memory whose size no choice changes, by name. `sensitivities` is what
    each of the weights costs in each format, None where that was never measured; `proved` what proofs found over
    such sums, by how was rounded. `torch_bytes` is what a process holds that runs modules of PyTorch, 0 where none
    is run. `guesses` say how guessed words went, see `planner.guessing`.
    """

    model: Model
    machine: Machine
    budget: Budget
    priors: Priors
    measured: Mapping[str, Degradation] = field(default_factory=dict)
    measured_bytes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    sensitivities: Sensitivities | None = None
    proved: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    torch_bytes: int = 0
    guesses: tuple[tuple[float, float], ...] = ()

    @cached_property
    def expects(self) -> Expectations:
        """What each step is expected to cost in quality."""
        return Expectations(self.priors, self.sensitivities, source_form(self.model), self.proved)

    @property
    def threads(self) -> int:
        """Threads that compute: what was asked for, or every core this process may use."""
        return self.budget.threads or self.machine.cpu.threads
