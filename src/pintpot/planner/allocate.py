"""Places: what of a choice stays in RAM. Everything when it fits, else the same share of each matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

from pintpot.contract.step import Step
from pintpot.errors import DoesNotFit, NotApplicable
from pintpot.planner.assess import Bench, Draft
from pintpot.planner.cost import Span
from pintpot.planner.plan import Plan
from pintpot.techniques.place.streamed import Streamed
from pintpot.units import format_bytes


class TooLarge(DoesNotFit):
    """No place makes this choice fit; `smallest_bytes` would."""

    def __init__(self, why: str, smallest_bytes: int) -> None:
        super().__init__(why)
        self.smallest_bytes = smallest_bytes


@dataclass(frozen=True)
class Placing:
    """A draft with the place that suits a memory budget; `place` None keeps everything in RAM.

    `total_s`, `first_token_s` and `per_token_s` are what its plan cannot be faster than; where everything is in RAM,
    they are what it takes.
    """

    draft: Draft
    place: Streamed | None
    total_s: Span
    first_token_s: Span
    per_token_s: Span

    def plan(self, bench: Bench) -> Plan:
        return bench.price(self.draft, self.place)


def place(bench: Bench, made: Draft, places: Iterable[Step], memory_bytes: int) -> Placing:
    """The fastest place of a draft in so much memory. Raises TooLarge with the number that decides."""
    if made.whole_bytes <= memory_bytes:
        return _placing(bench, made, None)
    rings = _rings(bench, made, places)
    room = memory_bytes - made.fixed_streaming_bytes
    fitting = [replace(r, resident_bytes=room - r.ring_bytes) for r in rings if r.ring_bytes <= room]
    if not fitting or made.loading_bytes > memory_bytes:
        smallest = _smallest(made, rings)
        why = f"needs at least {format_bytes(smallest)}, the budget is {format_bytes(memory_bytes)}"
        raise TooLarge(why if rings else f"{why}, and nothing can be streamed here", smallest)
    return _placing(bench, made, min(fitting, key=lambda ring: (_reading(bench, made, ring).mid, ring.ring_bytes)))


def smallest_bytes(bench: Bench, made: Draft, places: Iterable[Step]) -> int:
    """The smallest memory budget in which a draft has a place."""
    return _smallest(made, _rings(bench, made, places))


def _smallest(made: Draft, rings: list[Streamed]) -> int:
    if not rings:
        return made.whole_bytes
    least = made.fixed_streaming_bytes + min(ring.ring_bytes for ring in rings)
    return min(made.whole_bytes, max(made.loading_bytes, least))


def _rings(bench: Bench, made: Draft, places: Iterable[Step]) -> list[Streamed]:
    """The rings that can hold a strip of every weight; none where nobody knows how fast the disk is."""
    if not bench.can_stream:
        return []
    rings = []
    for ring in cast(Iterable[Streamed], places):
        try:
            ring.check(bench.question.model, made.form)
        except NotApplicable:
            continue
        rings.append(ring)
    return rings


def _reading(bench: Bench, made: Draft, ring: Streamed, logits: bool = True) -> Span:
    """Seconds of the disk in one pass at least, with or without the weights that only logits need."""
    weights = made.form.weights
    num_bytes = float(weights.passing_bytes - ring.resident_bytes)
    if not logits:
        # The running share leaves each run of weights its part of what is streamed, to one strip.
        share = 1 - made.logit_bytes / weights.passing_bytes
        num_bytes = share * num_bytes - weights.largest_strip_bytes
    return bench.prices(made.form).rates.disk(max(0.0, num_bytes), ring.slot_bytes, ring.in_flight)


def _placing(bench: Bench, made: Draft, ring: Streamed | None) -> Placing:
    prefill, decode = made.stages
    seconds, batch = [prefill.seconds, decode.seconds], decode.tokens // decode.replays
    if ring is not None:
        whole, part = _reading(bench, made, ring), _reading(bench, made, ring, logits=False)
        readings = (whole * batch + part * (prefill.replays - batch), whole * decode.replays)
        seconds = [Span.largest(*pair) for pair in zip(seconds, readings, strict=True)]
    return Placing(made, ring, seconds[0] + seconds[1], seconds[0] * (1 / batch), seconds[1] * (1 / decode.replays))
