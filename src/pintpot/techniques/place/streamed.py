"""What does not fit in RAM rests on disk and is read while the rest is computed, spread evenly over the step.

Weights that are read each step by large direct reads, overlapped with arithmetic: FlexGen (Sheng et al. 2023,
arXiv:2303.06865) and ZeRO-Inference (Aminabadi et al. 2022, arXiv:2207.00032).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from pintpot.budget import Budget
from pintpot.contract.form import STRIP_ROWS, Form, RingForm
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.program.fetch import insert_fetches
from pintpot.program.spec import Stage, Work

RINGS = ((4 << 20, 6, 4), (1 << 20, 6, 4), (256 << 10, 6, 4), (128 << 10, 4, 3))


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
        largest = max(weight.strip_bytes for weight in form.weights if weight.is_matrix)
        need(largest <= self.slot_bytes, f"a strip of {largest} bytes is larger than a slot", NotApplicable)

    def promise(self, form: Form) -> Form:
        """Strips stay by a running share, so that what is resident meets `resident_bytes` to one strip.

        An embedding that is not also the head is only ever looked up by row, and rests on disk whole.
        """
        untied = any(weight.name == "head" for weight in form.weights)
        passing = [w for w in form.weights if w.is_matrix and not (untied and w.name == "embed")]
        total = sum(weight.num_bytes for weight in passing)
        share = min(1.0, max(0.0, self.resident_bytes / total))
        wanted = kept = 0.0
        rows: dict[str, int] = {"embed": 0} if untied else {}
        for weight in passing:
            wanted += share * weight.num_bytes
            strips = min(weight.num_strips, max(0, int((wanted - kept) // weight.strip_bytes)))
            kept += strips * weight.strip_bytes
            rows[weight.name] = min(weight.shape[0], strips * STRIP_ROWS)
        weights = tuple(replace(w, ram_rows=rows[w.name]) if w.name in rows else w for w in form.weights)
        ring = RingForm(self.slot_bytes, self.num_slots, self.in_flight) if kept < total else None
        return replace(form, weights=weights, ring=ring)

    def rewrite(self, work: Work, form: Form) -> Work:
        disk = {weight.name: (weight.disk_bytes, weight.strip_bytes) for weight in form.weights if weight.disk_bytes}
        return Work(
            tuple(
                Stage(s.name, s.part, tuple(insert_fetches(p, disk) for p in s.programs), s.repeats)
                for s in work.stages
            )
        )

    @classmethod
    def offers(cls, model: Model, machine: Machine, budget: Budget) -> tuple[Step, ...]:
        return tuple(cls(slot_bytes=size, num_slots=count, in_flight=flight) for size, count, flight in RINGS)
