"""One way to learn, priced."""

from __future__ import annotations

from dataclasses import dataclass

from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.planner.cost import Cost


@dataclass(frozen=True)
class Candidate:
    """One way to learn, priced. Of equal `way` they teach the same, some faster and some in less memory."""

    way: tuple[str, ...]
    steps: tuple[Step, ...]
    form: Form
    cost: Cost
