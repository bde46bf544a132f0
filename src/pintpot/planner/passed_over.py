"""Ways to learn that a plan did not take, each with its figures and its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pintpot.contract.step import Step
from pintpot.planner.assess import shortfall_of_memory
from pintpot.planner.candidate import Candidate
from pintpot.planner.methods import BESIDE
from pintpot.planner.plan import Rejected
from pintpot.planner.question import Question


def others(best: Candidate, found: Sequence[Candidate], memory: int) -> Iterator[Candidate]:
    """Of each other way the better of its places: the one that fits, if one does."""
    seen: dict[tuple[Step, ...], Candidate] = {}
    for one in found:
        seen.setdefault(one.steps[:-1], one)
    yield from (one for steps, one in seen.items() if steps != best.steps[:-1])


def rejected_of(question: Question, best: Candidate, other: Candidate) -> Rejected:
    """What it would have been to take this way, and why it was not taken."""
    gained = [str(step) for step in other.steps if step not in best.steps]
    # What something else takes the place of need not be named.
    kinds = {step.facet for step in other.steps}
    lost = [f"no {step.name}" for step in best.steps if step.facet not in kinds]
    what = ", ".join(gained + lost)
    short = shortfall_of_memory(other.cost, question.budget.memory_bytes)
    slower = other.cost.total_s.mid / best.cost.total_s.mid if best.cost.total_s.mid else 1.0
    reason = short or f"{slower:.2f} times as long"
    if short is None and other.way != best.way:
        less = {"qlora": ", and it learns beside rounded weights", BESIDE: ", and adapters alone learn"}
        reason += less.get(other.way[0], "") + (", and less of it learns" if len(other.way) > len(best.way) else "")
    return Rejected(what, reason, memory_bytes=other.cost.memory_high, total_s=other.cost.total_s.mid)
