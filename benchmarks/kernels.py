"""One thread of the native kernels beside this machine's limits, measured interleaved in the same run.

    python benchmarks/kernels.py [--isa avx512] [--formats sym4,q4_k] [--megabytes 64] [--rounds 7]

Decode: bytes of weight per second for one token, over a loop that only reads the same bytes. Prefill: multiply-adds
per second for 64 and 256 tokens, over 8-bit (or float32) multiply-adds in registers. Attention: bytes of cache per
second for one token, over the reading loop; multiply-adds per second for 512 tokens after 0 and 3,584 others, over
float32 multiply-adds in registers (fused ones, as many a cycle as there can be multiplications). Seconds are the
thread's own: its waits for memory count, the turns of other processes do not. The answer of every kernel is checked
against float64 before it is timed; medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pintpot._native import kernels as native
from pintpot.errors import PintpotError, need
from pintpot.formats.registry import KERNEL_FORMATS, Encoding, encoding
from pintpot.formats.scales import store_byte_scales
from pintpot.formats.tiles import unpack
from pintpot.formats.two_four import store_kept

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

COLUMNS = 4096
PEAK_ROUNDS = 250_000


def drawn_strips(name: str, num_strips: int, seed: int = 0) -> Bytes:
    """Random strips with small finite scales."""
    rng, found = np.random.default_rng(seed), encoding(name)
    size = found.strip_bytes(COLUMNS)
    if found.kind == "float":
        values = rng.standard_normal((num_strips, size // (4 if name == "f32" else 2)), np.float32) * np.float32(0.02)
        words = values.astype("f2") if name == "f16" else values
        return ((words.view("u4") >> 16).astype("u2") if name == "bf16" else words).view(np.uint8)
    strips = rng.integers(0, 256, (num_strips, size), np.uint8)
    if found.kind == "table":
        return drawn_scales(rng, strips, found)
    groups, stride = found.num_groups(COLUMNS), found.group_scale_bytes
    area = strips[:, : groups * stride].reshape(num_strips, groups, stride)
    halves = (rng.standard_normal((num_strips, groups, 32), np.float32) * 0.01).astype(np.float16).view(np.uint8)
    wide = 64 if found.kind == "aff" or name == "q4_k" else 32
    area[:, :, :wide] = halves[:, :, :wide]
    if found.kind == "two_four":
        drawn_kept(rng, strips, found)
    return strips


def drawn_kept(rng: np.random.Generator, strips: Bytes, found: Encoding) -> None:
    """Two of every four codes drawn, at drawn places; the strips repeat after a few."""
    few = min(len(strips), 64)
    codes = rng.integers(0, 1 << found.code_bits, (few, 16, COLUMNS), np.uint8)
    order = rng.permuted(np.tile(np.arange(4), (codes.size // 4, 1)), axis=1)
    np.put_along_axis(codes.reshape(-1, 4), order[:, :2], 1 << found.code_bits - 1, 1)
    planes = strips[:, found.scale_bytes(COLUMNS) :]
    store_kept(codes, found.code_bits, planes[:few])
    for start in range(few, len(strips), few):
        planes[start : start + few] = planes[: len(strips) - start][:few]


def drawn_scales(rng: np.random.Generator, strips: Bytes, found: Encoding) -> Bytes:
    """The strips with scales of a byte, near 1/4096 to 1/16."""
    count = found.num_groups(COLUMNS) * found.group_columns // found.scale_columns
    least, most = (116, 120) if found.scale == "e8m0" else (16, 112)
    scales = rng.integers(least, most, (len(strips), 16, count), np.uint8)
    runs = found.num_runs(COLUMNS)
    units = rng.uniform(1e-4, 2e-4, (len(strips), runs)).astype(np.float32) if runs else None
    store_byte_scales(scales, units, strips, found, COLUMNS)
    return strips


def seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def alternate(rounds: int, *works: Callable[[], object]) -> list[list[float]]:
    """Seconds of each work in each round, the works taking turns; one round goes before the clock."""
    for work in works:
        work()
    rows = [[seconds(work) for work in works] for _ in range(rounds)]
    return [list(column) for column in zip(*rows, strict=True)]


def share(limit: list[float], ours: list[float]) -> float:
    """Median over rounds of limit / ours, of neighbours in time."""
    return statistics.median(a / b for a, b in zip(limit, ours, strict=True))


class Product:
    """One weight times drawn activations, `planes` 0 for float32."""

    def __init__(self, isa: str, name: str, strips: Bytes, tokens: int, planes: int) -> None:
        self.isa, self.name, self.strips, self.planes = isa, name, strips, planes
        self.x = np.random.default_rng(1).standard_normal((tokens, COLUMNS), np.float32)
        self.out = np.full((tokens, 16 * len(strips)), np.nan, np.float32)
        self.flat = strips.reshape(-1)
        self.quantized: Bytes | None = None
        if planes:
            self.quantized = np.empty(tokens * native.quantized_bytes(COLUMNS, planes), np.uint8)
            native.quantize(isa, self.x, planes, 0, tokens, self.quantized)

    def run(self) -> None:
        x = None if self.planes else self.x
        native.strips(self.isa, self.name, self.flat, COLUMNS, x, self.quantized, self.planes, self.out)

    def check(self) -> None:
        """Raises unless the first and last strip agree with float64 (activations rounded to 8 bits: 2%)."""
        self.run()
        for strip in (0, len(self.strips) - 1):
            weight = unpack(self.strips[strip : strip + 1], self.name, 16, COLUMNS).astype(np.float64)
            wanted = self.x.astype(np.float64) @ weight.T
            error = np.abs(self.out[:, 16 * strip : 16 * strip + 16] - wanted).max() / np.abs(wanted).std()
            need(bool(error < (0.06 if self.planes else 1e-3)), f"{self.name} is wrong by {error:.1e}", PintpotError)


def decode(isa: str, name: str, megabytes: int, planes: int, rounds: int) -> str:
    strips = drawn_strips(name, megabytes * 10**6 // encoding(name).strip_bytes(COLUMNS))
    product = Product(isa, name, strips, 1, planes)
    product.check()
    limit, ours = alternate(rounds, lambda: native.read_loop(isa, product.flat), product.run)
    rates = [strips.nbytes / statistics.median(times) / 1e9 for times in (ours, limit)]
    kind = f"int8x{planes}" if planes else "float32"
    return f"{name:6} {kind:8} decode   {rates[0]:7.1f} GB/s    of {rates[1]:7.1f}   {share(limit, ours):6.1%}"


def prefill(isa: str, name: str, tokens: int, planes: int, rounds: int) -> str:
    product = Product(isa, name, drawn_strips(name, 64), tokens, planes)
    product.check()
    peak = native.int8_peak if planes else native.float_peak
    operations = tokens * product.out.shape[1] * COLUMNS * max(planes, 1)
    per_round = peak(isa, 1)
    limit, ours = alternate(rounds, lambda: peak(isa, PEAK_ROUNDS), product.run)
    ours_rate = operations / statistics.median(ours) / 1e9
    limit_rate = PEAK_ROUNDS * per_round / statistics.median(limit) / 1e9
    equal = share([t * operations / (PEAK_ROUNDS * per_round) for t in limit], ours)
    kind = f"int8x{planes}" if planes else "float32"
    return f"{name:6} {kind:8} {tokens:3} tok. {ours_rate:8.1f} Gmadd/s of {limit_rate:7.1f}   {equal:6.1%}"


class Attention:
    """New tokens at the end of so many keys, 4 query heads a key head, in scattered pages."""

    def __init__(self, isa: str, cache: str, dim: int, kv_heads: int, keys: int, tokens: int) -> None:
        head = 32 * (dim * 2 if cache == "f16" else dim + dim // 32 * 2)
        rng = np.random.default_rng(2)
        self.k, self.v = (rng.integers(0, 60, keys // 32 * kv_heads * head, np.uint8) for _ in range(2))
        pages = rng.permutation(keys // 32).astype(np.int32)
        self.q = rng.standard_normal((tokens, 4 * kv_heads * dim), np.float32)
        self.out = np.full_like(self.q, np.nan)
        where = (isa, cache, self.k, self.v, pages, kv_heads, dim)
        self.arguments = (*where, self.q, dim**-0.5, 0, 0, keys - tokens, False, self.out)
        self.multiply_adds = 2 * self.q.shape[1] * sum(range(keys - tokens + 1, keys + 1))

    def run(self) -> None:
        native.attend(*self.arguments)

    def check(self) -> None:
        self.run()
        need(bool(np.isfinite(self.out).all()), "attention is not finite", PintpotError)


def attention(isa: str, cache: str, dim: int, rounds: int) -> str:
    """One token over 8192 keys in 4 key heads."""
    one = Attention(isa, cache, dim, 4, 8192, 1)
    one.check()
    limit, ours = alternate(rounds, lambda: (native.read_loop(isa, one.k), native.read_loop(isa, one.v)), one.run)
    rates = [2 * one.k.nbytes / statistics.median(times) / 1e9 for times in (ours, limit)]
    return f"{cache:5} head {dim:3} attend   {rates[0]:7.1f} GB/s    of {rates[1]:7.1f}   {share(limit, ours):6.1%}"


def attention_of_many(isa: str, cache: str, dim: int, keys: int, rounds: int) -> str:
    """512 tokens at the end of so many keys in one key head."""
    many = Attention(isa, cache, dim, 1, keys, 512)
    many.check()
    operations = native.float_peak(isa, 1) * PEAK_ROUNDS
    limit, ours = alternate(rounds, lambda: native.float_peak(isa, PEAK_ROUNDS), many.run)
    rates = [n / statistics.median(times) / 1e9 for n, times in ((many.multiply_adds, ours), (operations, limit))]
    equal = share([t * many.multiply_adds / operations for t in limit], ours)
    name = f"{cache:5} head {dim:3} 512 of {keys}"
    return f"{name:27} {rates[0]:5.1f} Gmadd/s of {rates[1]:7.1f}   {equal:6.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", default=native.chosen())
    parser.add_argument("--formats", default=",".join(KERNEL_FORMATS))
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["decode", "prefill", "attend"])
    given = parser.parse_args()
    print(f"{given.isa}, one thread, {COLUMNS} columns")
    for name in given.formats.split(","):
        planes = (0,) if encoding(name).kind == "float" else (1, 2)
        if given.only in (None, "decode"):
            for count in planes:
                print(decode(given.isa, name, given.megabytes, count, given.rounds), flush=True)
        if given.only in (None, "prefill"):
            for tokens, count in ((64, planes[0]), (256, planes[0])):
                print(prefill(given.isa, name, tokens, count, given.rounds), flush=True)
    if given.only in (None, "attend"):
        for cache in ("f16", "sym8c"):
            for dim in (64, 128):
                print(attention(given.isa, cache, dim, given.rounds), flush=True)
                for keys in (512, 4096):
                    print(attention_of_many(given.isa, cache, dim, keys, given.rounds), flush=True)


if __name__ == "__main__":
    main()
