"""A choice of steps taken as far as it goes without a place for its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pintpot.budget import Workload
from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.planner.cost import Holder, StageCost
from pintpot.planner.plan import Degradation
from pintpot.planner.price import Prices
from pintpot.planner.workload import decode_extents, prefill_extents
from pintpot.program.alike import alike
from pintpot.program.ops.linear import over_rows
from pintpot.program.spec import Work


@dataclass(frozen=True)
class Draft:
    """A choice of steps taken as far as it goes without a place: the form and the work they make, and what they hold.

    `fixed` is what a process holds beside the weights, `fixed_streaming` the same where rows are read from disk;
    before either there is a moment with `loading_bytes`. `prefill` and `decode` are priced with everything in RAM.
    """

    steps: tuple[Step, ...]
    form: Form
    work: Work
    workload: Workload
    fixed: tuple[Holder, ...]
    fixed_streaming: tuple[Holder, ...]
    loading_bytes: int
    degradation: Degradation
    prices: Prices

    @cached_property
    def prefill(self) -> StageCost:
        chunk = self.form.chunk
        return self.prices.stage(self.work.stage("prefill").program(chunk), prefill_extents(self.workload, chunk))

    @cached_property
    def decode(self) -> StageCost:
        program = self.work.stage("decode").program(self.workload.batch)
        return self.prices.stage(program, decode_extents(self.workload))

    @property
    def stages(self) -> tuple[StageCost, StageCost]:
        return self.prefill, self.decode

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
