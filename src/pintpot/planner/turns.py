"""Seconds of two devices that take turns: one in place, the other by copies in, arithmetic and copies out."""

from __future__ import annotations

from collections.abc import Sequence

from pintpot.planner.cost import ZERO, Span


def in_turns(own: Span, steps: Sequence[Span], turns: int) -> Span:
    """Until both are done, where the other takes the first of every few pieces, in all `turns` of them.

    `own` is what this device takes for all the others, `steps` what one turn takes there, step by step. A turn begins
    when this device comes by it, and as soon as the slowest step is free: each step works on a turn of its own, and
    there is room for as many turns as steps. So whichever is slower never waits, and the last turn ends after it
    began by all its steps.
    """
    pace = Span.largest(*steps, own * (1 / turns))
    return Span.largest(own, pace * (turns - 1) + sum(steps, ZERO))
