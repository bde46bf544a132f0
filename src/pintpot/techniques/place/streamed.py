"""What does not fit in RAM rests on disk and is read while the rest is computed, spread evenly over the step.

Weights that are read each step by large direct reads, overlapped with arithmetic: FlexGen (Sheng et al. 2023,
arXiv:2303.06865) and ZeRO-Inference (Aminabadi et al. 2022, arXiv:2207.00032).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import STRIP_ROWS, Form, RingForm, WeightForm, Weights
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.joined import ASIDE
from pintpot.model.spec import Model
from pintpot.program.alike import Alike
from pintpot.program.fetch import Streaming, fetches, insert_fetches
from pintpot.program.spec import Program, Work

RINGS = ((4 << 20, 6, 4), (1 << 20, 6, 4), (256 << 10, 6, 4), (128 << 10, 4, 3))


MOST_SLOTS = 16384
"""A table of more slots than this would take more memory than larger slots do."""


def most_slots(weight_bytes: int) -> int:
    """The most slots that weights of so many bytes may be cut into."""
    return min(MOST_SLOTS, weight_bytes // min(slot_bytes for slot_bytes, _, _ in RINGS) + 1)


@lru_cache(maxsize=1024)
def aside_bytes(weights: Weights) -> int:
    """Bytes of the matrices that are needed once for each picture; 0 where nothing sees."""
    return sum(count * size for name, count, size in weights.matrices if name.startswith(ASIDE))


@dataclass(frozen=True)
class Split:
    """Weights of which `ram_bytes` are resident; the rows of each matrix that are on `disk` are its last."""

    ram_bytes: int
    disk: Mapping[str, Streaming]
    ring: RingForm | None

    def ram_rows(self, weight: WeightForm) -> int:
        streaming = self.disk.get(weight.name)
        return weight.shape[0] if streaming is None else streaming.resident_strips * STRIP_ROWS


@dataclass(frozen=True)
class Streamed(Step):
    """`resident_bytes` of the matrices stay in RAM, the same share of all that are needed as often.

    The others pass through a ring of `num_slots` slots of `slot_bytes`, filled by `in_flight` direct reads at a time.
    """

    paper: ClassVar[str] = "FlexGen, Sheng et al. 2023, arXiv:2303.06865"
    facet: ClassVar[Facet] = Facet.PLACE
    resident_bytes: int = 0
    slot_bytes: int = 1 << 20
    num_slots: int = 6
    in_flight: int = 4

    @property
    def ring_bytes(self) -> int:
        return self.slot_bytes * self.num_slots

    def check(self, model: Model, form: Form) -> None:
        need(self.slot_bytes % 4096 == 0, "slots are a multiple of 4096 bytes", NotApplicable)
        need(self.num_slots > self.in_flight, "a ring needs more slots than reads in flight", NotApplicable)
        largest = form.weights.largest_strip_bytes
        need(largest <= self.slot_bytes, f"a strip of {largest} bytes is larger than a slot", NotApplicable)
        slots = form.weight_bytes // self.slot_bytes
        need(slots <= MOST_SLOTS, f"{slots} slots are a table larger than larger slots would be", NotApplicable)

    def promise(self, form: Form) -> Form:
        split = self.split(form.weights)
        weights = [
            WeightForm(w.name, w.shape, w.source, w.format, split.ram_rows(w), w.packed) if w.is_matrix else w
            for w in form.weights
        ]
        return replace(form, weights=Weights(weights), ring=split.ring)

    def split(self, weights: Weights) -> Split:
        """Strips stay by a running share, so that what is resident meets `resident_bytes` to one strip.

        An embedding that is not also the head is only ever looked up by row, and rests on disk whole. Of a model that
        sees, what is needed once for each picture is the first to leave.
        """
        aside = aside_bytes(weights)
        totals = (weights.passing_bytes - aside, aside)
        residents = self._residents(totals)
        looked_up = weights.looked_up
        passed, kept = [0, 0], [0, 0]
        disk: dict[str, Streaming] = {}
        for name, num_strips, strip_bytes in weights.matrices:
            strips, group = 0, int(aside > 0 and name.startswith(ASIDE))
            if name not in looked_up:
                passed[group] += num_strips * strip_bytes
                # Whole numbers: a share in floating point could keep a strip too many.
                room = residents[group] * passed[group] // totals[group] - kept[group]
                strips = min(num_strips, room // strip_bytes)
                kept[group] += strips * strip_bytes
            if strips < num_strips:
                disk[name] = Streaming((num_strips - strips) * strip_bytes, strip_bytes, num_strips)
        ring = RingForm(self.slot_bytes, self.num_slots, self.in_flight) if sum(kept) < sum(totals) else None
        return Split(weights.vector_bytes + sum(kept), disk, ring)

    def _residents(self, totals: tuple[int, int]) -> tuple[int, int]:
        """What is resident of the weights of every word, and of those of a picture."""
        often = min(self.resident_bytes, totals[0])
        return often, min(self.resident_bytes - often, totals[1])

    def streamed_bytes(self, weights: Weights, sees: bool) -> int:
        """What a replay reads of the weights of every word, or of those of a picture, where it needs all of them."""
        aside = aside_bytes(weights)
        totals = (weights.passing_bytes - aside, aside)
        return totals[sees] - self._residents(totals)[sees]

    def rewrite(self, work: Work, form: Form) -> Work:
        partly = [weight for weight in form.weights if weight.disk_bytes]
        disk = {w.name: Streaming(w.disk_bytes, w.strip_bytes, w.num_strips) for w in partly}
        return insert_fetches(work, disk, self.slot_bytes) if disk else work

    def fetches(self, program: Program, split: Split) -> list[Alike]:
        """What `rewrite` puts into a program, grouped."""
        return fetches(program, split.disk, self.slot_bytes)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return tuple(cls(slot_bytes=size, num_slots=count, in_flight=flight) for size, count, flight in RINGS)
