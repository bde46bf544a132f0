"""Seconds and traffic of a stage: walks the ops that will run, and divides what they ask by what the machine gives.

Lanes run side by side: a replay takes the longest of computing, reading from disk, and the RAM that both share. Then
what the lanes cost each other is added, what is read while everything waits (rows that are looked up, experts once they
are chosen), and the call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pintpot.contract.form import RingForm
from pintpot.planner.cost import ZERO, Span, StageCost
from pintpot.planner.rates import CACHED, Rates
from pintpot.planner.turns import in_turns
from pintpot.program.alike import Alike, alike
from pintpot.program.demand import Demand, Work
from pintpot.program.ops import op_module
from pintpot.program.spec import Extent, Extents, Program

RAM, ARITHMETIC, DISK, OVERHEAD = "RAM bandwidth", "arithmetic", "disk", "barriers and calls"
RESOURCES = (RAM, ARITHMETIC, DISK, OVERHEAD)
NO_RING = RingForm(4 << 20, 0, 4)
"""How the disk is read where no ring is: in large pieces, while opening."""
HINDRANCE = 0.3
"""Of the shorter of two lanes, what the longer one loses to it: the readers need the processor and memory too, and
where lanes are about as long, now one waits and now the other. Measured with models of 135M to 1.5B weights, parts of
which are read beside the rest: 0.2 to 0.4 fits prompts and answers alike."""
FAR = 1.1
"""A product that takes so much longer from RAM than from the caches waits for the RAM."""

PRICED_WITHIN = 1.07
"""How far a price is off rates of the same minutes, to either side, in four of five cases of benchmarks/promises.py."""


class Chosen(NamedTuple):
    """Bytes that data decide about: read from disk while everything waits, and how much less or more that may be."""

    disk_bytes: float
    less_bytes: float
    more_bytes: float

    def plus(self, other: Chosen, count: int) -> Chosen:
        return Chosen(*(mine + count * theirs for mine, theirs in zip(self, other, strict=True)))


FIXED = Chosen(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class OpPrice:
    """One op at one extent: compute-lane seconds, what it moves, and the mid seconds of each resource by itself."""

    seconds: Span
    ram_bytes: float
    disk_bytes: float
    lookup_bytes: float
    chosen: Chosen
    multiply_adds: float
    arithmetic_s: float
    ram_s: float
    overhead_s: float
    written_bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplayPrice:
    """The ops of one replay, summed: as `OpPrice`, with the mid seconds of each resource alone, and as they bind.

    `fetch_bytes` are the most that one op reads of a weight that passes by; of `disk_bytes` some are written.
    """

    compute: Span
    ram_bytes: float
    disk_bytes: float
    lookup_bytes: float
    fetch_bytes: float
    chosen: Chosen
    multiply_adds: float
    alone: tuple[float, float, float]
    binding: tuple[float, float, float]
    written_bytes: float = 0.0


NOTHING = ReplayPrice(ZERO, 0.0, 0.0, 0.0, 0.0, FIXED, 0.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Prices:
    """Prices at the rates of one machine; each kind of op, replay and stage is priced once for each extent.

    What an op asks for depends on its extent and on no bound of its program, so programs of every width share prices.
    """

    rates: Rates
    _ops: dict[tuple[Hashable, Hashable], OpPrice] = field(default_factory=dict, repr=False, compare=False)
    _replays: dict[tuple[int, Extent], tuple[object, ReplayPrice]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _stages: dict[tuple[str, int, Extents], tuple[object, StageCost]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def stage(self, program: Program, extents: Extents) -> StageCost:
        """The cost of replaying a program with everything in RAM."""
        groups = alike(program)
        key = (program.name, id(groups), extents)
        found = self._stages.get(key)
        if found is None:
            found = self._stages[key] = (groups, price_stage(program, self, extents))
        return found[1]

    def replay(self, program: Program, extent: Extent, fetches: Iterable[Alike] = ()) -> ReplayPrice:
        """The price of a program with the fetches that streaming puts into it."""
        groups = alike(program)
        # Groups are kept beside their price, so that no other ones get their identity.
        key = (id(groups), extent)
        found = self._replays.get(key)
        if found is None:
            found = self._replays[key] = (groups, self._sum(NOTHING, groups, program, extent))
        return self._sum(found[1], fetches, program, extent) if fetches else found[1]

    def _sum(self, begun: ReplayPrice, groups: Iterable[Alike], program: Program, extent: Extent) -> ReplayPrice:
        low, mid, high = begun.compute.low, begun.compute.mid, begun.compute.high
        ram, disk, lookups, most = begun.ram_bytes, begun.disk_bytes, begun.lookup_bytes, begun.fetch_bytes
        multiply_adds, chosen, written = begun.multiply_adds, begun.chosen, begun.written_bytes
        (ram_s, arithmetic_s, overhead_s), (bound_by_ram, bound_by_arithmetic, _) = begun.alone, begun.binding
        for item in groups:
            price, count = self._op(item, program, extent), item.count
            seconds = price.seconds
            low, mid, high = low + count * seconds.low, mid + count * seconds.mid, high + count * seconds.high
            ram, disk = ram + count * price.ram_bytes, disk + count * price.disk_bytes
            at_once = price.disk_bytes - price.lookup_bytes - price.chosen.disk_bytes - price.written_bytes
            written += count * price.written_bytes
            lookups, most = lookups + count * price.lookup_bytes, max(most, at_once)
            chosen = chosen if price.chosen is FIXED else chosen.plus(price.chosen, count)
            multiply_adds += count * price.multiply_adds
            arithmetic_s, ram_s = arithmetic_s + count * price.arithmetic_s, ram_s + count * price.ram_s
            overhead_s += count * price.overhead_s
            waiting = count * (seconds.mid - price.overhead_s)
            if price.ram_s >= price.arithmetic_s:
                bound_by_ram += waiting
            else:
                bound_by_arithmetic += waiting
        alone, binding = (ram_s, arithmetic_s, overhead_s), (bound_by_ram, bound_by_arithmetic, overhead_s)
        compute = Span(low, mid, high)
        return ReplayPrice(compute, ram, disk, lookups, most, chosen, multiply_adds, alone, binding, written)

    def _op(self, item: Alike, program: Program, extent: Extent) -> OpPrice:
        key = (item.signature, extent)
        found = self._ops.get(key)
        if found is None:
            module = op_module(item.op.kind)
            narrow = (item.signature, module.depends(item.op, program, extent))
            found = self._ops.get(narrow)
            if found is None:
                demand = module.demand(item.op, program, extent)
                found = self._ops[narrow] = self._price(demand, item.op.lane)
            self._ops[key] = found
        return found

    def _price(self, demand: Demand, lane: str) -> OpPrice:
        rates, num_bytes = self.rates, demand.ram_bytes
        decided = (demand.less_bytes, demand.more_bytes)
        if lane != "compute":
            chosen = Chosen(demand.chosen_bytes, *decided) if demand.chosen_bytes else FIXED
            written, disk = demand.disk_bytes if lane == "write" else 0.0, demand.disk_bytes
            adds = demand.multiply_adds
            return OpPrice(ZERO, num_bytes, disk, demand.lookup_bytes, chosen, adds, 0.0, 0.0, 0.0, written)
        traffic, waiting = spread(rates.ram, num_bytes, *decided), rates.over("turn", demand.phases)
        work, before, near = ZERO, ZERO, 0.0
        for one in demand.work:
            seconds = rates.work(one.what, one.amount, one.size)
            near += self._near(one, seconds.mid, traffic.mid)
            if one.what.startswith("prologue/"):
                before += seconds
            else:
                work += seconds
        work *= _unevenness(demand.pieces, rates.threads)
        if demand.turns:
            work = in_turns(work, [rates.work(one.what, one.amount, one.size) for one in demand.beside], demand.turns)
        # A kernel's rate from RAM contains the RAM's; what it takes from the caches is its arithmetic.
        far = before.mid + work.mid > FAR * near
        ram_s = max(traffic.mid, work.mid) if far and near < traffic.mid else traffic.mid
        seen = Span(*demand.seconds)
        seconds = before + Span.largest(work, traffic) + waiting + seen
        return OpPrice(
            seconds, num_bytes, demand.disk_bytes, 0.0, FIXED, demand.multiply_adds, near + seen.mid, ram_s, waiting.mid
        )

    def _near(self, work: Work, far_s: float, traffic_s: float) -> float:
        """The mid seconds of the work if the caches held all of it."""
        kind = work.what.partition("/")[0]
        if kind == "matvec":
            return self.rates.over(work.what, work.amount, CACHED).mid
        return max(0.0, far_s - traffic_s) if kind == "matmul" else far_s


def _unevenness(pieces: int, threads: int) -> float:
    """How much longer so many equal pieces take than work that is shared out evenly."""
    return -(-pieces // threads) * threads / pieces if pieces else 1.0


def price_stage(
    program: Program,
    prices: Prices,
    extents: Extents,
    ring: RingForm | None = None,
    fills: int = 0,
    fetches: Sequence[Alike] = (),
) -> StageCost:
    """The cost of replaying a program, with the fetches that streaming puts into it, at each extent so many times.

    The ring is found empty at `fills` of them.
    """
    rates, knobs = prices.rates, ring or NO_RING
    total, ram, disk, written, multiply_adds = ZERO, 0.0, 0.0, 0.0, 0.0
    if ring is not None:
        # Nothing can be computed before the first slot is there, and it comes with those read beside it.
        total += rates.disk(fills * ring.in_flight * ring.slot_bytes, ring.slot_bytes, ring.in_flight)
    alone, binding = dict.fromkeys(RESOURCES, 0.0), dict.fromkeys(RESOURCES, 0.0)
    call = rates.over("call", 1)
    for extent, times in extents:
        replay = prices.replay(program, extent, fetches)
        ahead = replay.disk_bytes - replay.lookup_bytes - replay.chosen.disk_bytes - replay.written_bytes
        # A disk reads and writes in turn.
        reading = rates.disk(ahead, knobs.slot_bytes, knobs.in_flight) + rates.writing(replay.written_bytes)
        waited = spread(lambda size: rates.disk(size, knobs.slot_bytes, knobs.in_flight), *replay.chosen)
        looking_up = rates.lookup(replay.lookup_bytes, min(rates.threads, extent.tokens))
        shared = rates.ram(replay.ram_bytes)
        total = total + (_lanes(replay, reading, shared, rates, knobs) + waited + looking_up + call) * times
        ram, disk = ram + times * replay.ram_bytes, disk + times * replay.disk_bytes
        written += times * replay.written_bytes
        multiply_adds += times * replay.multiply_adds
        ram_s, arithmetic_s, overhead_s = replay.alone
        disk_s = reading.mid + looking_up.mid
        own = (max(ram_s, shared.mid), arithmetic_s, disk_s + waited.mid, overhead_s + call.mid)
        bound = (0.0, 0.0, waited.mid, 0.0)
        for sums, seconds in (
            (alone, own),
            (binding, _binding(replay, disk_s, shared.mid, call.mid)),
            (binding, bound),
        ):
            for what, value in zip(RESOURCES, seconds, strict=True):
                sums[what] += times * value
    replays = sum(times for _, times in extents)
    tokens = sum(extent.tokens * times for extent, times in extents)
    binds = max(RESOURCES, key=lambda what: binding[what])
    within = total.widened(PRICED_WITHIN)
    table = tuple(alone.items())
    return StageCost(program.name, tokens, replays, within, ram, disk, multiply_adds, binds, table, written)


def side_by_side(computing: Span, reading: Span, shared: Span = ZERO) -> Span:
    """Seconds of two lanes and of the RAM that they share: of the longest, and of what the other takes from it."""
    return Span.largest(computing, reading, shared) + Span.smallest(computing, reading) * HINDRANCE


def spread(rate: Callable[[float], Span], num_bytes: float, less: float, more: float) -> Span:
    """Seconds for bytes of which data decide that they are so much less or more."""
    if not (less or more):
        return rate(num_bytes)
    return Span(rate(num_bytes - less).low, rate(num_bytes).mid, rate(num_bytes + more).high)


def _lanes(replay: ReplayPrice, reading: Span, shared: Span, rates: Rates, ring: RingForm) -> Span:
    """Seconds of the lanes of a replay.

    An op whose weight is larger than the ring waits for the rest of it, however long the ops before it took.
    """
    beyond = max(0.0, replay.fetch_bytes - ring.num_bytes)
    computing = replay.compute + rates.disk(beyond, ring.slot_bytes, ring.in_flight)
    return side_by_side(computing, reading, shared)


def _binding(replay: ReplayPrice, reading_s: float, shared_s: float, call_s: float) -> tuple[float, ...]:
    """The seconds of a replay by the resource that they wait for, in the order of `RESOURCES`."""
    if reading_s >= max(replay.compute.mid, shared_s):
        return 0.0, 0.0, reading_s, call_s
    if shared_s > replay.compute.mid:
        return shared_s, 0.0, 0.0, call_s
    ram_s, arithmetic_s, overhead_s = replay.binding
    return ram_s, arithmetic_s, 0.0, overhead_s + call_s
