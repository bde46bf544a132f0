"""What does not fit in RAM rests on disk and is read while the rest is computed, spread evenly over the step.

Weights that are read each step by large direct reads, overlapped with arithmetic: FlexGen (Sheng et al. 2023,
arXiv:2303.06865) and ZeRO-Inference (Aminabadi et al. 2022, arXiv:2207.00032).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import STRIP_ROWS, Form, RingForm, WeightForm, Weights
from pintpot.contract.shares import Share, group_of, num_slots, residents, totals
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.program.alike import Alike
from pintpot.program.fetch import Streaming, fetches, insert_fetches
from pintpot.program.spec import Program, Work

RINGS = ((4 << 20, 6, 4), (1 << 20, 6, 4), (256 << 10, 6, 4), (128 << 10, 4, 3))


MOST_SLOTS = 16384
"""A table of more slots than this would take more memory than larger slots do."""


def most_slots(weights: Weights) -> int:
    """The most slots that weights may be cut into."""
    smallest = min(slot_bytes for slot_bytes, _, _ in RINGS)
    return min(MOST_SLOTS, num_slots(weights, smallest))


@dataclass(frozen=True)
class Split:
    """Weights of which `ram_bytes` are resident; the rows of each matrix that are on `disk` are its last."""

    ram_bytes: int
    disk: Mapping[str, Streaming]
    ring: RingForm | None

    def ram_rows(self, weight: WeightForm) -> int:
        streaming = self.disk.get(weight.name)
        return weight.rows if streaming is None else streaming.resident_strips * STRIP_ROWS


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
        slots = num_slots(form.weights, self.slot_bytes)
        need(slots <= MOST_SLOTS, f"{slots} slots are a table larger than larger slots would be", NotApplicable)

    def promise(self, form: Form) -> Form:
        split = self.split(form.weights)
        weights = [
            WeightForm(w.name, w.shape, w.source, w.format, split.ram_rows(w), w.packed, w.experts)
            if w.is_matrix
            else w
            for w in form.weights
        ]
        return replace(form, weights=Weights(weights), ring=split.ring)

    def split(self, weights: Weights) -> Split:
        """Strips stay by a running share, so that what is resident meets `resident_bytes` to one strip.

        What every word needs stays first, then as much of each expert, of which it meets some; what is needed once for
        each picture is the first to leave. An embedding that is not also the head is only ever looked up by row, and
        rests on disk whole.
        """
        shares = [Share(*pair) for pair in zip(totals(weights), residents(weights, self.resident_bytes), strict=True)]
        disk: dict[str, Streaming] = {}
        kept = 0
        for name, num_strips, strip_bytes, experts in weights.matrices:
            strips = 0
            if name not in weights.looked_up:
                strips = shares[group_of(name, experts)].strips(num_strips, strip_bytes * experts)
                kept += strips * strip_bytes * experts
            if strips < num_strips:
                streamed = (num_strips - strips) * strip_bytes * experts
                disk[name] = Streaming(streamed, strip_bytes, num_strips, experts)
        ring = RingForm(self.slot_bytes, self.num_slots, self.in_flight) if kept < weights.passing_bytes else None
        return Split(weights.vector_bytes + kept, disk, ring)

    def streamed_bytes(self, weights: Weights, sees: bool) -> int:
        """What a replay reads at least of the weights of every word, or of those of a picture, where it needs them all.

        Of experts it reads what was chosen; the least of that is nothing, for tokens may agree on what is resident.
        """
        group = 2 if sees else 0
        return totals(weights)[group] - residents(weights, self.resident_bytes)[group]

    def rewrite(self, work: Work, form: Form) -> Work:
        partly = [weight for weight in form.weights if weight.disk_bytes]
        disk = {w.name: Streaming(w.disk_bytes, w.strip_bytes, w.expert_strips, w.experts) for w in partly}
        return insert_fetches(work, disk, self.slot_bytes) if disk else work

    def fetches(self, program: Program, split: Split) -> list[Alike]:
        """What `rewrite` puts into a program, grouped."""
        return fetches(program, split.disk, self.slot_bytes)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return tuple(cls(slot_bytes=size, num_slots=count, in_flight=flight) for size, count, flight in RINGS)
