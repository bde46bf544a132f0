"""Ways to learn that a plan did not take, each with its figures and its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pintpot.contract.step import Step
from pintpot.planner.assess import shortfall_of_memory
from pintpot.planner.candidate import Candidate
from pintpot.planner.cost import LEARNING
from pintpot.planner.methods import BESIDE
from pintpot.planner.plan import Rejected
from pintpot.planner.price import ARITHMETIC, DISK
from pintpot.planner.question import Question
from pintpot.units import format_bytes, format_seconds


def _of_the_disk(best: Candidate, other: Candidate) -> str:
    """Where the other way alone writes insides of blocks out, so that less is computed: both in seconds of a step."""
    writes = [one.form.training is not None and one.form.training.written > 0 for one in (best, other)]
    more = _alone_s(other, DISK) - _alone_s(best, DISK)
    less = _alone_s(best, ARITHMETIC) - _alone_s(other, ARITHMETIC)
    if writes != [False, True] or min(more, less) <= 0:
        return ""
    return f": the disk takes {format_seconds(more)} a step, and what that saves {format_seconds(less)}"


def _alone_s(one: Candidate, what: str) -> float:
    stages = (stage for stage in one.cost.stages if stage.name in LEARNING)
    return sum(dict(stage.bound_s).get(what, 0.0) / stage.replays for stage in stages)


def others(best: Candidate, found: Sequence[Candidate], memory: int) -> Iterator[Candidate]:
    """Of each other way the better of its places: the one that fits, if one does."""
    seen: dict[tuple[Step, ...], Candidate] = {}
    for one in found:
        seen.setdefault(one.steps[:-1], one)
    yield from (one for steps, one in seen.items() if steps != best.steps[:-1])


def rejected_of(question: Question, best: Candidate, other: Candidate, room_bytes: int | None) -> Rejected:
    """What it would have been to take this way, and why it was not taken."""
    gained = [str(step) for step in other.steps if step not in best.steps]
    # What something else takes the place of need not be named.
    kinds = {step.facet for step in other.steps}
    lost = [f"no {step.name}" for step in best.steps if step.facet not in kinds]
    what = ", ".join(gained + lost)
    short = shortfall_of_memory(other.cost, question.budget.memory_bytes)
    if short is None and room_bytes is not None and other.cost.pack_bytes > room_bytes:
        short = f"takes {format_bytes(other.cost.pack_bytes)} of disk, and {format_bytes(room_bytes)} are free"
    slower = other.cost.total_s.mid / best.cost.total_s.mid if best.cost.total_s.mid else 1.0
    reason = short or f"{slower:.2f} times as long"
    if short is None and other.way != best.way:
        less = {"qlora": ", and it learns beside rounded weights", BESIDE: ", and adapters alone learn"}
        reason += less.get(other.way[0], "") + (", and less of it learns" if len(other.way) > len(best.way) else "")
    if short is None and slower > 1:
        reason += _of_the_disk(best, other)
    return Rejected(what, reason, memory_bytes=other.cost.memory_high, total_s=other.cost.total_s.mid)
