"""Places: what of a choice stays in RAM. Everything when it fits, else the same share of each matrix, the rest streamed."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from pintpot.contract.step import Step
from pintpot.errors import DoesNotFit, NotApplicable
from pintpot.planner.assess import Draft, draft, price
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.space import Choice
from pintpot.techniques.place.streamed import Streamed
from pintpot.units import format_bytes

RING_SHARE = 0.125
"""A ring takes no more of the room than this while a smaller one exists."""


class TooLarge(DoesNotFit):
    """No place makes this choice fit; `smallest_bytes` would."""

    def __init__(self, why: str, smallest_bytes: int) -> None:
        super().__init__(why)
        self.smallest_bytes = smallest_bytes


def place(question: Question, choice: Choice, places: tuple[Step, ...]) -> Plan:
    """The plan of a choice, its weights placed. Raises NotApplicable or TooLarge with the number that decides."""
    made = draft(question, (step for step in choice if step is not None))
    if made.form.weight_bytes <= made.room_bytes:
        return price(made)
    rings = [ring for ring in cast(tuple[Streamed, ...], places) if _applies(ring, made)]
    vectors = sum(weight.ram_bytes for weight in made.form.weights if not weight.is_matrix)
    room = made.room_bytes - vectors
    fitting = [ring for ring in rings if ring.ring_bytes <= room]
    if not fitting:
        least = min((ring.ring_bytes for ring in rings), default=made.form.weight_bytes) + vectors
        budget = question.budget.memory_bytes
        smallest = budget - made.room_bytes + least
        raise TooLarge(f"needs at least {format_bytes(smallest)}, the budget is {format_bytes(budget)}", smallest)
    small = [ring for ring in fitting if ring.ring_bytes <= RING_SHARE * room]
    ring = max(small, key=lambda r: r.ring_bytes) if small else min(fitting, key=lambda r: r.ring_bytes)
    return price(made, replace(ring, resident_bytes=room - ring.ring_bytes))


def _applies(ring: Streamed, made: Draft) -> bool:
    try:
        ring.check(made.question.model, made.form)
    except NotApplicable:
        return False
    return True
