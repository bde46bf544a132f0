"""What one op asks of a machine. Demands add up; the planner divides them by the machine's rates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Demand:
    """Arithmetic and traffic of one op at one extent.

    `arithmetic` holds (rate name of `machine.spec.Rate`, amount in that rate's unit) pairs; `rows` is the number of
    activation rows that share each weight; `ram_bytes` are read from or written to RAM; `disk_bytes` come from disk;
    `phases` counts the barriers after which the next op may start.
    """

    arithmetic: tuple[tuple[str, float], ...] = ()
    rows: int = 1
    multiply_adds: float = 0.0
    ram_bytes: float = 0.0
    disk_bytes: float = 0.0
    phases: int = 0
