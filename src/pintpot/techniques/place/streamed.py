"""What does not fit in RAM rests on disk and is read while the rest is computed, spread evenly over the step.

Weights that are read each step by large direct reads, overlapped with arithmetic: FlexGen (Sheng et al. 2023,
arXiv:2303.06865) and ZeRO-Inference (Aminabadi et al. 2022, arXiv:2207.00032).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import STRIP_ROWS, Form, RingForm, WeightForm, Weights
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


def most_slots(weight_bytes: int) -> int:
    """The most slots that weights of so many bytes may be cut into."""
    return min(MOST_SLOTS, weight_bytes // min(slot_bytes for slot_bytes, _, _ in RINGS) + 1)


@dataclass(frozen=True)
class Streamed(Step):
    """`resident_bytes` of the matrices stay in RAM, the same share of each; the others pass through a ring.

    The ring has `num_slots` slots of `slot_bytes`, filled by `in_flight` direct reads side by side.
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
        """Strips stay by a running share, so that what is resident meets `resident_bytes` to one strip.

        An embedding that is not also the head is only ever looked up by row, and rests on disk whole.
        """
        total = form.weights.passing_bytes
        resident = min(self.resident_bytes, total)
        looked_up = form.weights.looked_up
        passed = kept = 0
        weights: list[WeightForm] = []
        for weight in form.weights:
            if not weight.is_matrix:
                weights.append(weight)
                continue
            strips, strip_bytes = 0, weight.strip_bytes
            if weight.name not in looked_up:
                passed += weight.num_strips * strip_bytes
                # Whole numbers: a share in floating point could keep a strip too many.
                strips = min(weight.num_strips, (resident * passed // total - kept) // strip_bytes)
                kept += strips * strip_bytes
            rows = min(weight.shape[0], strips * STRIP_ROWS)
            weights.append(WeightForm(weight.name, weight.shape, weight.source, weight.format, rows, weight.packed))
        ring = RingForm(self.slot_bytes, self.num_slots, self.in_flight) if kept < total else None
        return replace(form, weights=Weights(weights), ring=ring)

    def rewrite(self, work: Work, form: Form) -> Work:
        disk = _streaming(form)
        return insert_fetches(work, disk, self.slot_bytes) if disk else work

    def fetches(self, form: Form) -> Callable[[Program], list[Alike]]:
        """What `rewrite` puts into a program, grouped."""
        return partial(fetches, disk=_streaming(form), slot_bytes=self.slot_bytes)

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return tuple(cls(slot_bytes=size, num_slots=count, in_flight=flight) for size, count, flight in RINGS)


def _streaming(form: Form) -> dict[str, Streaming]:
    return {w.name: Streaming(w.disk_bytes, w.strip_bytes, w.num_strips) for w in form.weights if w.disk_bytes}
