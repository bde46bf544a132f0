"""The speeds of one machine as a plan uses them: looked up once, and what nobody measured taken from its like."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from functools import partial
from math import log

from pintpot.formats import encoding
from pintpot.machine.spec import CACHE_FORMATS, LOOKUP_BYTES, PROLOGUE_ROWS, WRITE_BYTES, Machine, Rate
from pintpot.planner.cost import ZERO, Span
from pintpot.program.ops.linear import split_suffix

CACHED = 1 << 20
"""Working set at which a machine record holds a kernel's arithmetic alone."""
TWO_PLANES = {"matvec": 0.8, "matmul": 0.55, "prologue": 0.5}
"""Of the arithmetic with int8 rows in one plane, for rows in two: medians of what probes measured of products (0.73 to
0.96 with one row, 0.46 to 0.62 with 256). The weights of one row come from memory as fast as ever."""
FLOAT_ROWS = 0.8
"""Of the speed of float weights, for low-bit weights expanded to meet float rows."""
BRAIN_ROWS = 0.2
"""The same for rows in bfloat16 where nobody measured them: tile products are followed step by step."""
_LIKE = {"bfloat16": "int8", "rotate": "int8", "geglu": "swiglu", "gather": "int8"}
"""What a prologue costs that nobody measured: what this one does."""
CALLS_OF_ATEN = (2.5e4, 1e5, 4e5)
"""Calls of PyTorch's own library a second, from Python, whatever they compute: 40 to 2.5 microseconds each."""
ATEN_LIKE = {
    "values": (0.5, 2.0, 8.0), "curve": (0.3, 1.0, 2.0), "reduction": (0.3, 1.0, 3.0), "window": (0.1, 0.4, 2.0),
    "sort": (0.02, 0.06, 0.2), "product": (0.7, 1.0, 1.4), "convolution": (0.4, 0.8, 1.4), "grouped": (0.02, 0.06, 0.2),
    "attention": (0.2, 0.5, 1.0), "product_bf16": (0.3, 1.0, 12.0), "convolution_bf16": (0.2, 0.8, 8.0),
    "attention_bf16": (0.1, 0.5, 4.0),
}  # fmt: skip
"""Where nobody measured PyTorch's calls: of our own gates, and of our own products of float32, low..high."""
WRITES_LIKE = (0.2, 0.6)
"""Of the rate of reading, the least and the middle of that of writing where it was not measured."""
PHASES_OF_LEAF = 2
"""What a leaf costs however small it is, where nobody measured it: so many phases of an op."""
ATEN_PRODUCTS = tuple(name for name in ATEN_LIKE if name.startswith(("product", "convolution", "grouped", "attention")))
FLOAT_PRODUCT_ROWS, GATE_ROWS = 64, 16
WIDE_ATTENTION = 0.2
"""Of the float peak, for attention over many new tokens."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Units a second, low..high."""

    low: float
    mid: float
    high: float

    def over(self, amount: float) -> Span:
        return Span(amount / self.high, amount / self.mid, amount / self.low)

    def times(self, factor: float) -> Speed:
        return Speed(self.low * factor, self.mid * factor, self.high * factor)

    def between(self, other: Speed, share: float) -> Speed:
        """The geometric mean, `share` of the way to the other."""
        near, far = 1 - share, share
        return Speed(
            self.low**near * other.low**far, self.mid**near * other.mid**far, self.high**near * other.high**far
        )


@dataclass(frozen=True)
class Rates:
    """Speeds with `threads` threads; `footprint` bytes are touched in every pass, so kernels find them that far away.

    Work at a rate that is not known takes no time: a record without it says so in its notes.
    """

    machine: Machine
    threads: int
    footprint: int
    _found: dict[tuple[object, ...], Speed | None] = field(default_factory=dict, repr=False, compare=False)

    def over(self, what: str, amount: float, size: int = 0) -> Span:
        speed = self.speed(what, size)
        return ZERO if speed is None or not amount else speed.over(amount)

    def ram(self, num_bytes: float) -> Span:
        return self.over("read", num_bytes, self.footprint)

    def disk(self, num_bytes: float, slot_bytes: int, in_flight: int) -> Span:
        key = ("disk", slot_bytes, in_flight)
        if key not in self._found:
            self._found[key] = _speed(self.machine.rate("disk", threads=in_flight, size=slot_bytes))
        speed = self._found[key]
        return ZERO if speed is None or not num_bytes else speed.over(num_bytes)

    def writing(self, num_bytes: float) -> Span:
        """Seconds to write so many bytes; as for reading, more or less, where nobody measured it."""
        if ("write",) not in self._found:
            known, like = self.machine.rate("disk_write"), self.machine.rate("disk", threads=4, size=WRITE_BYTES)
            guessed = None if like is None else Speed(like.low * WRITES_LIKE[0], like.mid * WRITES_LIKE[1], like.high)
            self._found["write",] = guessed if known is None else _speed(known)
        speed = self._found["write",]
        return ZERO if speed is None or not num_bytes else speed.over(num_bytes)

    def lookup(self, num_bytes: float, in_flight: int) -> Span:
        """Seconds to read so many bytes in single rows; as for the smallest blocks where nobody measured it."""
        key = ("lookup", in_flight)
        if key not in self._found:
            known = self.machine.rate("lookup", threads=in_flight, size=LOOKUP_BYTES)
            self._found[key] = _speed(known or self.machine.rate("disk", threads=in_flight, size=LOOKUP_BYTES))
        speed = self._found[key]
        return ZERO if speed is None or not num_bytes else speed.over(num_bytes)

    def converting(self, name: str, num_values: float) -> Span:
        """Seconds to round or permute so many values into a format while packing, on one thread."""
        rate = _speed(self.machine.rate(f"expand/{name}", threads=1)) or self._slowest_like("expand", name, 0)
        return ZERO if rate is None else rate.over(num_values)

    def speed(self, what: str, size: int) -> Speed | None:
        key = (what, size)
        if key not in self._found:
            self._found[key] = self._look_up(what, size)
        return self._found[key]

    def work(self, what: str, amount: float, size: int) -> Span:
        """Seconds of the work of an op."""
        speed = self.work_speed(what, size)
        return ZERO if speed is None or not amount else speed.over(amount)

    def work_speed(self, what: str, size: int) -> Speed | None:
        """Units of an op's work a second; between measured sizes on a logarithmic scale."""
        key = ("work", what, size)
        if key not in self._found:
            kind, _, name = what.partition("/")
            if kind == "matmul":
                self._found[key] = self.product(name, size)
            elif kind == "matvec":
                self._found[key] = self.speed(what, self.footprint)
            elif kind == "prologue":
                self._found[key] = self.speed(what, min(size, PROLOGUE_ROWS[-1]))
            else:
                sizes = self.machine.sizes(what) or [size]
                self._found[key] = _between(size, [(one, self.speed(what, one)) for one in sizes])
        return self._found[key]

    def product(self, name: str, rows: int) -> Speed | None:
        """Multiply-adds a second at `rows` rows."""
        key = ("product", name, rows)
        if key not in self._found:
            base = f"matmul/{split_suffix(name)[0]}"
            sizes = self.machine.sizes(f"matmul/{name}") or self.machine.sizes(base) or [rows]
            known = [(1, self.speed(f"matvec/{name}", self.footprint))]
            self._found[key] = _between(rows, known + [(size, self.speed(f"matmul/{name}", size)) for size in sizes])
        return self._found[key]

    def _look_up(self, what: str, size: int) -> Speed | None:
        rate = _speed(self.machine.rate(what, threads=self.threads, size=size))
        if rate is None and what == "turn":
            return self.speed("barrier", size)
        if rate is None and what == "leaf":
            return _times(self.speed("turn", size), 1 / PHASES_OF_LEAF)
        if rate is None and what == "aten":
            return Speed(*CALLS_OF_ATEN)
        if rate is not None or "/" not in what:
            return rate
        kind, _, name = what.partition("/")
        if kind == "aten":
            return self._aten(name, size)
        if kind == "leaf":
            return None
        if kind == "cuda":
            return self.speed("cuda/h2d_pinned", size) if name == "d2h_pinned" else None
        at = partial(self.speed, size=size)
        if name.endswith("x2"):
            return self._two_planes(kind, name.removesuffix("x2"), size)
        if name.endswith("x0"):
            return _times(at(f"{kind}/f32"), FLOAT_ROWS)
        if name.endswith("xb"):
            near = self._slowest_like(kind, name, size)
            return near or _times(at(f"{kind}/f32"), BRAIN_ROWS)
        if kind in ("attend_rounded", "attend_brain"):
            return at(f"attend_many/{name}")
        if kind == "attend_many":
            return _times(self.speed("float_peak", 0), WIDE_ATTENTION)
        if kind == "prologue":
            like = _LIKE.get(name)
            return at(f"prologue/{like}") if like else None
        return self._slowest_like(kind, name, size)

    def _aten(self, name: str, size: int) -> Speed | None:
        """As fast as what of ours is most like it, more or less."""
        rows = size if name.startswith("product") else FLOAT_PRODUCT_ROWS
        ours = self.product("f32", rows) if name in ATEN_PRODUCTS else self.work_speed("prologue/swiglu", GATE_ROWS)
        low, mid, high = ATEN_LIKE[name]
        return None if ours is None else Speed(ours.low * low, ours.mid * mid, ours.high * high)

    def _two_planes(self, kind: str, name: str, size: int) -> Speed | None:
        near = CACHED if kind == "matvec" else size
        arithmetic = _times(self.speed(f"{kind}/{name}", near), TWO_PLANES[kind])
        found = self.speed(f"{kind}/{name}", size)
        if found is None or arithmetic is None:
            return found
        return Speed(*(min(pair) for pair in zip(astuple(found), astuple(arithmetic), strict=True)))

    def _slowest_like(self, kind: str, name: str, size: int) -> Speed | None:
        """The slowest measured format of the same sort: a quick probe measures a few of each."""
        names = {rate.what.partition("/")[2] for rate in self.machine.rates if rate.what.startswith(f"{kind}/")}
        rates = [self.machine.rate(f"{kind}/{n}", threads=self.threads, size=size) for n in names if _same(n, name)]
        return _speed(min((rate for rate in rates if rate), key=lambda rate: (rate.mid, rate.what), default=None))


def _between(size: int, known: list[tuple[int, Speed | None]]) -> Speed | None:
    """The speed at a size between those that are known."""
    speeds = [(one, speed) for one, speed in known if speed is not None]
    if not speeds:
        return None
    below = next((item for item in reversed(speeds) if item[0] <= size), speeds[0])
    above = next((item for item in speeds if item[0] >= size), speeds[-1])
    if above[0] <= below[0]:
        return below[1]
    return below[1].between(above[1], log(size / below[0]) / log(above[0] / below[0]))


def _same(one: str, other: str) -> bool:
    if one in CACHE_FORMATS and other in CACHE_FORMATS:
        return True
    (one, rows), (other, wanted) = split_suffix(one), split_suffix(other)
    return rows == wanted and (encoding(one).kind == "float") == (encoding(other).kind == "float")


def _speed(rate: Rate | None) -> Speed | None:
    return None if rate is None else Speed(rate.low, rate.mid, rate.high)


def _times(speed: Speed | None, factor: float) -> Speed | None:
    return None if speed is None else speed.times(factor)
