"""A choice of steps on its way to a plan: first without a place, then with one and its cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from pintpot.budget import Budget
from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.planner.cost import Cost, Holder, StageCost
from pintpot.planner.plan import Degradation
from pintpot.planner.price import Prices, price_stage
from pintpot.program.alike import alike
from pintpot.program.ops.linear import over_rows
from pintpot.program.spec import Work
from pintpot.techniques.place.streamed import Split, Streamed


@dataclass(frozen=True)
class Draft:
    """A choice of steps taken as far as it goes without a place: the form and the work they make, and what they hold.

    `fixed` is what a process holds beside the weights, `fixed_streaming` the same where rows are read from disk;
    before either there is a moment with `loading_bytes`, and before that the pack is made in `packing_bytes`. `stages`
    are priced with everything in RAM.
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
    _costs: dict[int, StageCost] = field(default_factory=dict, repr=False, compare=False)

    def stage(self, index: int) -> StageCost:
        """The cost of a stage by its place in the work, with everything in RAM; priced when it is asked for."""
        at = index % len(self.work.stages)
        if at not in self._costs:
            stage = self.work.stages[at]
            self._costs[at] = self.prices.stage(stage.widest, stage.extents)
        return self._costs[at]

    @property
    def stages(self) -> tuple[StageCost, ...]:
        return tuple([self.stage(index) for index in range(len(self.work.stages))])

    def streamed(self, place: Streamed, split: Split) -> tuple[StageCost, ...]:
        """The stages where rows are read from disk; the first one finds the ring empty."""
        costs = []
        for index, stage in enumerate(self.work.stages):
            program, fills = stage.widest, 1 if index == 0 else 0
            fetches = place.fetches(program, split)
            costs.append(price_stage(program, self.prices, stage.extents, split.ring, fills, fetches))
        return tuple(costs)

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
        program = self.work.stages[max(0, len(self.work.stages) - 2)].programs[-1]
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
    def steps(self) -> tuple[Step, ...]:
        return self.draft.steps

    @property
    def budget(self) -> Budget:
        return self.draft.budget

    @property
    def degradation(self) -> Degradation:
        return self.draft.degradation
