"""A choice of steps on its way to a plan: first without a place, then with one and its cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.planner.cost import Cost, Holder, StageCost
from pintpot.planner.plan import Degradation
from pintpot.planner.price import Extents, Prices, price_stage
from pintpot.planner.workload import decode_extents, prefill_extents
from pintpot.program.alike import alike
from pintpot.program.ops.linear import over_rows
from pintpot.program.spec import Program, Work
from pintpot.techniques.place.streamed import Split, Streamed


@dataclass(frozen=True)
class Draft:
    """A choice of steps taken as far as it goes without a place: the form and the work they make, and what they hold.

    `fixed` is what a process holds beside the weights, `fixed_streaming` the same where rows are read from disk;
    before either there is a moment with `loading_bytes`, and before that the pack is made in `packing_bytes`. `prefill`
    and `decode` are priced with everything in RAM.
    """

    steps: tuple[Step, ...]
    form: Form
    work: Work
    budget: Budget
    fixed: tuple[Holder, ...]
    fixed_streaming: tuple[Holder, ...]
    loading_bytes: int
    degradation: Degradation
    prices: Prices
    packing_bytes: int = 0

    @cached_property
    def prefill(self) -> StageCost:
        return self.prices.stage(*self._prefill)

    @cached_property
    def decode(self) -> StageCost:
        return self.prices.stage(*self._decode)

    def streamed(self, place: Streamed, split: Split) -> tuple[StageCost, StageCost]:
        """Prefill and decode where rows are read from disk."""

        def price(program: Program, extents: Extents, fills: int) -> StageCost:
            return price_stage(program, self.prices, extents, split.ring, fills, place.fetches(program, split))

        return price(*self._prefill, fills=1), price(*self._decode, fills=0)

    @property
    def _prefill(self) -> tuple[Program, Extents]:
        chunk = self.form.chunk
        return self.work.stage("prefill").program(chunk), prefill_extents(self.budget.workload, chunk)

    @property
    def _decode(self) -> tuple[Program, Extents]:
        workload = self.budget.workload
        return self.work.stage("decode").program(workload.batch), decode_extents(workload)

    @cached_property
    def fixed_bytes(self) -> int:
        return sum(holder.high for holder in self.fixed)

    @cached_property
    def fixed_streaming_bytes(self) -> int:
        """What a process holds when no strip has its place in RAM; vectors always have theirs."""
        return sum(holder.high for holder in self.fixed_streaming) + self.form.weights.vector_bytes

    @cached_property
    def logit_bytes(self) -> int:
        """Bytes of the weights that are only needed where logits are wanted."""
        program = self.work.stage("prefill").programs[-1]
        found = (item for item in alike(program) if item.op.kind == "linear" and over_rows(item.op, program))
        weights = self.form.weights.by_name
        return sum(item.count * sum(weights[name].num_bytes for name in item.op.read_all("weight")) for item in found)

    @property
    def whole_bytes(self) -> int:
        """The budget at which everything stays in RAM."""
        return max(self.loading_bytes, self.fixed_bytes + self.form.weight_bytes)


@dataclass(frozen=True)
class Priced:
    """A draft with its weights at a place (None: all in RAM), and what that costs."""

    draft: Draft
    place: Streamed | None
    cost: Cost

    @property
    def budget(self) -> Budget:
        return self.draft.budget

    @property
    def degradation(self) -> Degradation:
        return self.draft.degradation
