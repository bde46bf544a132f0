"""Seconds and traffic of a stage: walks the ops that will run, and divides what they ask by what the machine gives.

Lanes run side by side: a replay takes the longest of computing, reading from disk, and the RAM that both share; then
the cost of the call is added.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from pintpot.contract.form import RingForm
from pintpot.planner.cost import ZERO, Span, StageCost
from pintpot.planner.rates import CACHED, Rates
from pintpot.program.alike import Alike, alike
from pintpot.program.demand import Demand
from pintpot.program.ops import op_module
from pintpot.program.spec import Extent, Program

RAM, ARITHMETIC, DISK, OVERHEAD = "RAM bandwidth", "arithmetic", "disk", "barriers and calls"
RESOURCES = (RAM, ARITHMETIC, DISK, OVERHEAD)
NO_RING = RingForm(4 << 20, 0, 4)
"""How the disk is read where no ring is: in large pieces, while opening."""
FAR = 1.1
"""A product that takes so much longer from RAM than from the caches waits for the RAM."""


@dataclass(frozen=True, slots=True)
class OpPrice:
    """One op at one extent: compute-lane seconds, what it moves, and the mid seconds of each resource by itself."""

    seconds: Span
    ram_bytes: float
    disk_bytes: float
    multiply_adds: float
    arithmetic_s: float
    ram_s: float
    overhead_s: float


@dataclass(frozen=True)
class Prices:
    """Prices of ops at the rates of one machine; each kind of op is priced once for each extent."""

    rates: Rates
    _known: dict[tuple[Hashable, Extent], OpPrice] = field(default_factory=dict, repr=False, compare=False)

    def of(self, item: Alike, program: Program, extent: Extent) -> OpPrice:
        key = (item.signature, extent)
        found = self._known.get(key)
        if found is None:
            demand = op_module(item.op.kind).demand(item.op, program, extent)
            found = self._known[key] = self._price(demand, item.op.lane == "compute")
        return found

    def _price(self, demand: Demand, computes: bool) -> OpPrice:
        rates, num_bytes = self.rates, demand.ram_bytes
        if not computes:
            return OpPrice(ZERO, num_bytes, demand.disk_bytes, demand.multiply_adds, 0.0, 0.0, 0.0)
        work = near = ZERO
        for what, amount in demand.arithmetic:
            kind, _, name = what.partition("/")
            if kind == "matmul":
                speed = rates.product(name, demand.rows)
                each = close = ZERO if speed is None else speed.over(amount)
            else:
                each, close = rates.over(what, amount, rates.footprint), rates.over(what, amount, CACHED)
            work, near = work + each, near + close
        traffic, waiting = rates.ram(num_bytes), rates.over("barrier", demand.phases)
        seconds = Span.largest(work, traffic) + waiting
        # A kernel's rate from RAM contains the RAM's; what it takes from the caches is its arithmetic.
        far = work.mid > FAR * near.mid
        ram_s = max(traffic.mid, work.mid) if far else traffic.mid
        return OpPrice(seconds, num_bytes, demand.disk_bytes, demand.multiply_adds, near.mid, ram_s, waiting.mid)


def price_stage(
    program: Program,
    prices: Prices,
    extents: tuple[tuple[Extent, int], ...],
    ring: RingForm | None = None,
) -> StageCost:
    """The cost of replaying a program at each extent so many times."""
    rates, groups = prices.rates, alike(program)
    total, ram, disk, multiply_adds = ZERO, 0.0, 0.0, 0.0
    alone = dict.fromkeys(RESOURCES, 0.0)
    critical = dict.fromkeys(RESOURCES, 0.0)
    call = rates.over("call", 1)
    knobs = ring or NO_RING
    for extent, times in extents:
        step = _Step()
        for item in groups:
            step.add(prices.of(item, program, extent), item.count)
        reading, shared = rates.disk(step.disk_bytes, knobs.slot_bytes, knobs.in_flight), rates.ram(step.ram_bytes)
        total = total + (Span.largest(step.compute, reading, shared) + call) * times
        ram, disk = ram + times * step.ram_bytes, disk + times * step.disk_bytes
        multiply_adds += times * step.multiply_adds
        step.own[RAM] = max(step.own[RAM], shared.mid)
        step.own[DISK] = reading.mid
        for what, seconds in step.own.items():
            alone[what] += times * seconds
        for what, seconds in step.shares(reading.mid, shared.mid).items():
            critical[what] += times * seconds
        for table in (alone, critical):
            table[OVERHEAD] += times * call.mid
    replays = sum(times for _, times in extents)
    tokens = sum(extent.tokens * times for extent, times in extents)
    binds = max(RESOURCES, key=lambda what: critical[what])
    return StageCost(program.name, tokens, replays, total, ram, disk, multiply_adds, binds, tuple(alone.items()))


@dataclass
class _Step:
    """One replay, summed over its ops."""

    compute: Span = ZERO
    ram_bytes: float = 0.0
    disk_bytes: float = 0.0
    multiply_adds: float = 0.0
    own: dict[str, float] = field(default_factory=lambda: dict.fromkeys(RESOURCES, 0.0))
    critical: dict[str, float] = field(default_factory=lambda: dict.fromkeys(RESOURCES, 0.0))

    def add(self, price: OpPrice, count: int) -> None:
        self.compute = self.compute + price.seconds * count
        self.ram_bytes += count * price.ram_bytes
        self.disk_bytes += count * price.disk_bytes
        self.multiply_adds += count * price.multiply_adds
        self.own[ARITHMETIC] += count * price.arithmetic_s
        self.own[RAM] += count * price.ram_s
        self.own[OVERHEAD] += count * price.overhead_s
        longest = RAM if price.ram_s >= price.arithmetic_s else ARITHMETIC
        self.critical[longest] += count * (price.seconds.mid - price.overhead_s)
        self.critical[OVERHEAD] += count * price.overhead_s

    def shares(self, reading_s: float, shared_s: float) -> dict[str, float]:
        """The replay's seconds by the resource that they wait for."""
        if reading_s >= max(self.compute.mid, shared_s):
            return {DISK: reading_s}
        return {RAM: shared_s} if shared_s > self.compute.mid else self.critical
