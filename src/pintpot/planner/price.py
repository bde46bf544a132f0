"""Seconds and traffic of a stage: walks the ops that will run, and divides what they ask by what the machine gives.

Lanes run side by side: a step takes the longer of computing and reading from disk, and both share the RAM.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import log

from pintpot.machine.spec import Machine, Rate
from pintpot.planner.cost import ZERO, Span, StageCost
from pintpot.program.demand import Demand
from pintpot.program.ops import op_module
from pintpot.program.spec import Extent, Op, Program

CACHED = 1 << 20
"""Working set at which a machine record holds a kernel's arithmetic alone."""


@dataclass(frozen=True, slots=True)
class Prices:
    """The rates of one machine as a plan uses them: `threads` threads over `footprint` bytes a step."""

    machine: Machine
    threads: int
    footprint: int
    slot_bytes: int = 1 << 20
    in_flight: int = 4

    def seconds(self, demand: Demand) -> Span:
        """Compute-lane seconds of one op."""
        arithmetic = ZERO
        for what, amount in demand.arithmetic:
            arithmetic = arithmetic + self._work(what, amount, demand.rows)
        traffic = self.ram(demand.ram_bytes)
        return Span.largest(arithmetic, traffic) + self._rate("barrier", 0).over(demand.phases)

    def ram(self, num_bytes: float) -> Span:
        return self._rate("read", self.footprint).over(num_bytes)

    def disk(self, num_bytes: float) -> Span:
        rate = self.machine.rate("disk", threads=self.in_flight, size=self.slot_bytes)
        return _Speed(rate).over(num_bytes) if num_bytes else ZERO

    def converting(self, name: str, num_values: float) -> Span:
        """Seconds to round or permute so many values into a format while packing, on one thread."""
        return _Speed(self.machine.rate(f"expand/{name}", threads=1)).over(num_values)

    def per_call(self) -> Span:
        return self._rate("call", 0).over(1)

    def _rate(self, what: str, size: int) -> _Speed:
        return _Speed(self.machine.rate(what, threads=self.threads, size=size))

    def _work(self, what: str, amount: float, rows: int) -> Span:
        kind, _, name = what.partition("/")
        if kind != "matmul":
            return self._measured(what, self.footprint).over(amount)
        return self._matmul(name, rows).over(amount)

    def _matmul(self, name: str, rows: int) -> _Speed:
        """Multiply-adds a second at `rows` rows, between the measured ones on a logarithmic scale."""
        known: list[tuple[int, _Speed]] = [(1, self._measured(f"matvec/{name}", CACHED))]
        sizes = sorted({r.size for r in self.machine.rates if r.what == f"matmul/{name.removesuffix('x2')}"})
        known += [(size, self._measured(f"matmul/{name}", size)) for size in sizes]
        below = [item for item in known if item[0] <= rows][-1]
        above = next((item for item in known if item[0] >= rows), known[-1])
        if above[0] <= below[0]:
            return below[1]
        return below[1].between(above[1], log(rows / below[0]) / log(above[0] / below[0]))

    def _measured(self, what: str, size: int) -> _Speed:
        """A rate by name; two planes cost twice one, and wide attention what the float peak allows, unless measured."""
        rate = self.machine.rate(what, threads=self.threads, size=size)
        if rate is None and what.endswith("x2"):
            return self._measured(what.removesuffix("x2"), size).times(0.5)
        if rate is None and what.startswith("attend_many/"):
            return self._rate("float_peak", 0).times(0.2)
        return _Speed(rate)


@dataclass(frozen=True, slots=True)
class _Speed:
    """A rate that may be missing: work at a missing rate takes no time, for another bound decides then."""

    rate: Rate | None

    def over(self, amount: float) -> Span:
        if self.rate is None or not amount:
            return ZERO
        return Span(amount / self.rate.high, amount / self.rate.mid, amount / self.rate.low)

    def times(self, factor: float) -> _Speed:
        r = self.rate
        return self if r is None else _Speed(replace(r, low=r.low * factor, mid=r.mid * factor, high=r.high * factor))

    def between(self, other: _Speed, share: float) -> _Speed:
        one, two = self.rate, other.rate
        if one is None or two is None:
            return other if one is None else self
        blend = {key: getattr(one, key) ** (1 - share) * getattr(two, key) ** share for key in ("low", "mid", "high")}
        return _Speed(replace(one, **blend))


def price_stage(
    program: Program, prices: Prices, extents: tuple[tuple[Extent, int], ...], fixed_s: Span = ZERO
) -> StageCost:
    """The cost of replaying a program at each extent so many times; `fixed_s` is added to every replay."""
    total, ram, disk, multiply_adds = ZERO, 0.0, 0.0, 0.0
    bounds: Counter[str] = Counter()
    signatures = Counter(_signature(op, program) for op in program.ops)
    ops = {_signature(op, program): op for op in program.ops}
    for extent, times in extents:
        compute, moved, fetched = ZERO, 0.0, 0.0
        traffic_s = arithmetic_s = 0.0
        for signature, count in signatures.items():
            demand = op_module(ops[signature].kind).demand(ops[signature], program, extent)
            moved += count * demand.ram_bytes
            fetched += count * demand.disk_bytes
            multiply_adds += times * count * demand.multiply_adds
            if ops[signature].lane == "compute":
                seconds = prices.seconds(demand)
                compute = compute + seconds * count
                traffic_s += count * prices.ram(demand.ram_bytes).mid
                arithmetic_s += count * seconds.mid
        reading, shared = prices.disk(fetched), prices.ram(moved)
        step = Span.largest(compute, reading, shared) + prices.per_call() + fixed_s
        total = total + step * times
        ram, disk = ram + times * moved, disk + times * fetched
        bounds["RAM bandwidth"] += times * max(traffic_s, shared.mid)  # type: ignore[assignment]
        bounds["arithmetic"] += times * arithmetic_s  # type: ignore[assignment]
        bounds["disk"] += times * reading.mid  # type: ignore[assignment]
    replays = sum(times for _, times in extents)
    tokens = sum(extent.tokens * times for extent, times in extents)
    binds = _binding(bounds)
    return StageCost(program.name, tokens, replays, total, ram, disk, multiply_adds, binds, tuple(bounds.items()))


def _binding(bounds: Counter[str]) -> str:
    """The resource whose own time is longest; arithmetic only where it clearly exceeds the traffic it contains."""
    if bounds["disk"] >= max(bounds["arithmetic"], bounds["RAM bandwidth"]):
        return "disk"
    return "RAM bandwidth" if bounds["RAM bandwidth"] >= 0.8 * bounds["arithmetic"] else "arithmetic"


def _signature(op: Op, program: Program) -> tuple[object, ...]:
    """Ops that ask for the same: kind, knobs, and the shapes and formats of what they touch."""
    buffers = program.by_name
    touched = tuple((role, buffers[name].shape, buffers[name].format) for role, name in op.reads)
    return (op.kind, op.attributes, touched, tuple(buffers[name].shape for _, name in op.writes))
