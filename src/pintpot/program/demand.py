"""What one op asks of a machine. Demands add up; the planner divides them by the machine's rates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """`amount` of something in the unit of the rate `what` (`machine.spec.Rate`), at that rate's `size`."""

    what: str
    amount: float
    size: int = 0


@dataclass(frozen=True, slots=True)
class Demand:
    """Arithmetic and traffic of one op at one extent.

    `work` is done one after the other; `pieces` is the number of equal parts that threads share (0: as many as they
    like); `ram_bytes` are read from or written to RAM; `disk_bytes` come from disk, while other ops run, but for
    `lookup_bytes` of them, which are read row by row, and `chosen_bytes`, which are read once data have decided about
    them: for both everything waits. `phases` counts the barriers after which the next op may start. Where data decide
    what is read, it may be `less_bytes` less or `more_bytes` more. `seconds`, low, mid, high, were measured as such on
    one machine, where no rate says them. Meanwhile another device goes through the steps of `beside`, `turns` times;
    each step of a turn follows the one before it, and those of several turns run side by side.
    """

    work: tuple[Work, ...] = ()
    pieces: int = 0
    multiply_adds: float = 0.0
    ram_bytes: float = 0.0
    disk_bytes: float = 0.0
    lookup_bytes: float = 0.0
    phases: int = 0
    chosen_bytes: float = 0.0
    less_bytes: float = 0.0
    more_bytes: float = 0.0
    seconds: tuple[float, float, float] = (0.0, 0.0, 0.0)
    beside: tuple[Work, ...] = ()
    turns: int = 0
