"""Updates that two devices share: which runs of values a second one takes, and what stands ready for it there."""

from __future__ import annotations

TURN_VALUES = 1 << 20
"""Values of a turn at most: a copy of them takes many times as long as beginning it."""
PLACES = 3
"""On the second device: while one turn arrives, one is updated, and one leaves."""
IN_BYTES, OUT_BYTES = 16, 12
"""Of a value: itself, its gradient and both means arrive; all but the gradient leaves again."""


def is_elsewhere(number: int, stride: int) -> bool:
    """Whether this turn, counted from 0, is the second device's: the first of every `stride`, so it begins at once."""
    return number % stride == 0


def shared_out(num_values: int, stride: int) -> tuple[int, int]:
    """How many turns so many values make here, and how many at the second device."""
    turns = max(1, -(-num_values // TURN_VALUES))
    elsewhere = -(-turns // stride)
    return turns - elsewhere, elsewhere
