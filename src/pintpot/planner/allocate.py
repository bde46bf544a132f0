"""Places: what of a choice stays in RAM. Everything when it fits, else the same share of each matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pintpot.contract.shares import totals
from pintpot.contract.step import Step
from pintpot.errors import DoesNotFit
from pintpot.model.joined import ASIDE
from pintpot.planner.assess import Bench
from pintpot.planner.cost import Span
from pintpot.planner.draft import Draft, Priced
from pintpot.planner.price import side_by_side
from pintpot.program.spec import Stage
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

    Its plan cannot be faster than `stage_s` of each stage, all replays of it; where everything is in RAM, that is what
    it takes. Each is worked out when it is asked for. Where rows are read, a stage takes what two lanes take that run
    side by side; that is convex in both, so of their sums no more than the sum over the replays.
    """

    draft: Draft
    place: Streamed | None
    _stages: dict[int, Span] = field(default_factory=dict, repr=False, compare=False)

    def stage_s(self, index: int) -> Span:
        """Seconds of a stage by its place in the work; -1 is the last one."""
        at = index % len(self.draft.work.stages)
        if at not in self._stages:
            seconds = self.draft.stage(at).seconds
            reading = None if self.place is None else _reading(self.draft, self.place, self.draft.work.stages[at])
            self._stages[at] = seconds if reading is None else side_by_side(seconds, reading)
        return self._stages[at]

    @property
    def seconds_mid(self) -> float:
        """Of all stages."""
        return sum(self.stage_s(index).mid for index in range(len(self.draft.work.stages)))

    @property
    def least_bytes(self) -> int:
        """Its plan takes no less memory; a ring takes what there is."""
        return self.draft.whole_bytes if self.place is None else 0

    def price(self, bench: Bench) -> Priced:
        return bench.price(self.draft, self.place)


def place(bench: Bench, made: Draft, places: Iterable[Step], memory_bytes: int) -> Placing:
    """The fastest place of a draft in so much memory. Raises TooLarge with the number that decides."""
    if max(made.whole_bytes, made.packing_bytes) <= memory_bytes:
        return Placing(made, None)
    rings = _rings(bench, made, places)
    room = memory_bytes - made.fixed_streaming_bytes
    fitting = [ring for ring in rings if ring.ring_bytes <= room]
    if not fitting or max(made.loading_bytes, made.packing_bytes) > memory_bytes:
        smallest = _smallest(made, rings)
        why = f"needs at least {format_bytes(smallest)}, the budget is {format_bytes(memory_bytes)}"
        raise TooLarge(why if rings else f"{why}, and nothing can be streamed here", smallest)
    streamed = made.form.weights.passing_bytes - room

    def slowness(ring: Streamed) -> tuple[float, int]:
        return _disk(made, ring, streamed + ring.ring_bytes).mid, ring.ring_bytes

    ring = min(fitting, key=slowness)
    return Placing(made, replace(ring, resident_bytes=room - ring.ring_bytes))


def smallest_bytes(bench: Bench, made: Draft, places: Iterable[Step]) -> int:
    """The smallest memory budget in which a draft has a place."""
    return _smallest(made, _rings(bench, made, places))


def _smallest(made: Draft, rings: tuple[Streamed, ...]) -> int:
    if not rings:
        return max(made.whole_bytes, made.packing_bytes)
    least = made.fixed_streaming_bytes + min(ring.ring_bytes for ring in rings)
    return max(made.packing_bytes, min(made.whole_bytes, max(made.loading_bytes, least)))


def _rings(bench: Bench, made: Draft, places: Iterable[Step]) -> tuple[Streamed, ...]:
    """The rings that can hold a strip of every weight; none where nobody knows how fast the disk is."""
    return bench.rings(places, made.form) if bench.can_stream else ()


def _reading(made: Draft, ring: Streamed, stage: Stage) -> Span:
    """Seconds of all reads of a stage; what only logits need is read where some are wanted."""
    streamed = ring.streamed_bytes(made.form.weights, f"{stage.part.rstrip('.')}." in ASIDE)
    with_logits = sum(times for extent, times in stage.extents if extent.rows)
    without = sum(times for _, times in stage.extents) - with_logits
    whole = _disk(made, ring, streamed) * with_logits
    if not without:
        return whole
    weights = made.form.weights
    # The running share leaves each run of weights its part of what is streamed, to one strip.
    every = totals(weights)[0]
    without_logits = streamed * (1 - made.logit_bytes / every) - weights.largest_strip_bytes
    return whole + _disk(made, ring, without_logits) * without


def _disk(made: Draft, ring: Streamed, num_bytes: float) -> Span:
    return made.prices.rates.disk(max(0.0, num_bytes), ring.slot_bytes, ring.in_flight)
