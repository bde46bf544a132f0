"""What PyTorch's own calls take here: measured where a module is first planned, in a process of its own, and kept.

`python -m pintpot.machine.aten THREADS` prints the rates that it measures with so many threads. Nothing else here
imports PyTorch.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from math import log2
from typing import Any

from pintpot.errors import UnsupportedPlatform
from pintpot.machine.features import fingerprint
from pintpot.machine.leaf import Leaf
from pintpot.machine.measure import Loop, measure
from pintpot.machine.process import module_process_bytes, program_mark
from pintpot.machine.spec import Machine, Rate
from pintpot.meter.clock import Watch
from pintpot.meter.home import home
from pintpot.meter.records import locked, write_record

_log = logging.getLogger(__name__)
EDITION = 3
"""Of what is measured here: what was kept of another is measured again."""
SECONDS = 2.5
"""Of measuring with one number of threads."""
BUSY = 0.25
"""Where others used more of the machine meanwhile, it is measured again after `AGAIN_S`."""
AGAIN_S, FOREVER_S = 1800.0, 3e9
SIZES = (1 << 14, 1 << 18, 1 << 22)
"""Values of a pass over them: within the nearest cache, within a larger one, and beyond."""
PRODUCT_ROWS = (1, 16, 256)
WIDTH = 1024
"""Of products, and of what is normed."""
PICTURES, DEPTHWISE = ((16, 14), (16, 28), (64, 28), (64, 56)), ((64, 14), (128, 28), (96, 112))
"""Convolutions of 3 by 3 places, the least first: channels, and height and width."""
LEAF_SHAPES = ((32, 32), (1024, 96))
"""Packed leaves: rows and outputs, of the fewest columns that a strip has."""
FASTER = 0.75
"""The quantile of samples taken for the middle: threads of OpenMP that others keep from running hold up all of them, so
that a busy machine says less of PyTorch's calls than of anything else."""
Timed = tuple[str, int, float, Callable[[], object]]
"""The rate's name and size, units of a call, and the call."""


def with_aten(machine: Machine, needs_torch: bool) -> Machine:
    """The machine with the rates of PyTorch's calls, where a model makes some and it is this machine.

    Elsewhere plans take them from what is known of the machine. Raises UnsupportedPlatform where they cannot be
    measured.
    """
    if not needs_torch or machine.origin == "catalog" or machine.fingerprint != fingerprint(home()):
        return machine
    return replace(machine, rates=machine.rates + _remembered(machine))


def with_torch(machine: Machine, needs_torch: bool) -> tuple[Machine, int]:
    """The same, and what a process weighs that makes such calls: 0 for a model that makes none."""
    return with_aten(machine, needs_torch), module_process_bytes(needs_torch)


def _remembered(machine: Machine) -> tuple[Rate, ...]:
    """One measurement for each version of PyTorch, program and machine; a kept one that is damaged is made again.

    One that was made while others used the machine is made again when it is asked for some time later.
    """
    mark = f"{program_mark(('pintpot', 'torch'))} {EDITION}"
    with locked(home() / "aten" / f"{machine.fingerprint}.json") as path:
        try:
            known = json.loads(path.read_text())
            if known["mark"] == mark and time.time() < known["until"]:
                return tuple(Rate(**rate) for rate in known["rates"])
        except (OSError, KeyError, TypeError, ValueError):
            _log.info("no rates of PyTorch's calls in %s yet; they are measured", path)
        rates, busy = _measured_apart(machine.cpu.threads)
        until = time.time() + (AGAIN_S if busy > BUSY else FOREVER_S)
        write_record(path, {"mark": mark, "until": until, "rates": [asdict(rate) for rate in rates]})
        return rates


def _measured_apart(cores: int) -> tuple[tuple[Rate, ...], float]:
    """In processes of their own, one for each number of threads; and the share of the machine that others used."""
    found: list[Rate] = []
    busy = 0.0
    for threads in sorted({1, cores}):
        command = [sys.executable, "-m", "pintpot.machine.aten", str(threads)]
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise UnsupportedPlatform(f"PyTorch's calls cannot be measured: {last[0]}")
        said = json.loads(done.stdout)
        found += [Rate(**rate) for rate in said["rates"]]
        busy = max(busy, said["busy"])
    return tuple(found), busy


def loops(threads: int) -> Iterator[Loop]:
    """What is timed with so many threads; it is PyTorch that counts them. Rates are without what any call takes."""
    import torch

    few, out = torch.ones(16), torch.empty(16)
    any_call = _repeated(lambda: torch.ops.aten.add.out(few, few, out=out), 1.0)
    yield Loop("aten", threads, 0, any_call)
    calls, seconds = min((any_call(1000) for _ in range(9)), key=lambda found: found[1])
    for what, size, units, call in (*_passes(torch), *_products(torch)):
        yield Loop(what, threads, size, _repeated(call, units, seconds / calls))
    small, large = (Leaf(*shape, threads) for shape in LEAF_SHAPES)
    any_leaf = _repeated(small, 1.0)
    yield Loop("leaf", threads, 0, any_leaf)
    calls, seconds = min((any_leaf(100) for _ in range(9)), key=lambda found: found[1])
    yield Loop("leaf/outputs", threads, 0, _repeated(large, large.num_outputs, seconds / calls))


def _passes(torch: Any) -> Iterator[Timed]:
    """Values."""
    aten = torch.ops.aten
    for size in SIZES:
        x, y = torch.randn(size // WIDTH, WIDTH), torch.empty(size // WIDTH, WIDTH)
        yield "aten/values", size, float(size), partial(aten.add.out, x, x, out=y)
        yield "aten/curve", size, float(size), partial(aten.gelu.out, x, out=y)
        yield "aten/reduction", size, float(size), partial(aten._softmax.out, x, -1, False, out=y)
    picture, order = torch.randn(1, 64, 56, 56), torch.randn(64, WIDTH)
    pool = partial(aten.max_pool2d_with_indices, picture, [3, 3], [2, 2], [1, 1])
    yield "aten/window", 0, float(picture.numel()), pool
    yield "aten/sort", 0, order.numel() * log2(WIDTH), partial(aten.sort, order, -1)


def _products(torch: Any) -> Iterator[Timed]:
    """Multiply-adds."""
    aten = torch.ops.aten
    weight = torch.randn(WIDTH, WIDTH)
    for rows, (suffix, dtype) in product(PRODUCT_ROWS, _dtypes(torch)):
        x, y = torch.randn(rows, WIDTH).to(dtype), torch.empty(rows, WIDTH, dtype=dtype)
        call = partial(aten.mm.out, x, weight.to(dtype).t(), out=y)
        yield f"aten/product{suffix}", rows, float(rows * WIDTH**2), call
    for (suffix, dtype), (channels, side) in product(_dtypes(torch), PICTURES):
        yield _convolution(torch, f"aten/convolution{suffix}", dtype, channels, side, 1)
    for channels, side in DEPTHWISE:
        yield _convolution(torch, "aten/grouped", torch.float32, channels, side, channels)
    heads = torch.randn(1, 8, 256, 64)
    attention = aten._scaled_dot_product_flash_attention_for_cpu
    adds = 2.0 * 8 * 256 * 256 * 64
    yield "aten/attention", 0, adds, partial(attention, heads, heads, heads)
    near = heads.to(torch.bfloat16)
    yield "aten/attention_bf16", 0, adds, partial(attention, near, near, near)


def _dtypes(torch: Any) -> tuple[tuple[str, Any], ...]:
    """What follows a rate's name in float32, and in bfloat16."""
    return ("", torch.float32), ("_bf16", torch.bfloat16)


def _convolution(torch: Any, what: str, dtype: Any, channels: int, side: int, groups: int) -> Timed:
    x = torch.randn(1, channels, side, side).to(dtype, memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels // groups, 3, 3).to(dtype, memory_format=torch.channels_last)
    adds, ones, call = 9 * channels**2 // groups * side**2, [1, 1], torch.ops.aten.convolution.out
    rest = (None, ones, ones, ones, False, [0, 0], groups)
    return what, adds, float(adds), partial(call, x, kernel, *rest, out=x.clone())


def _repeated(call: Callable[[], object], units: float, less_s: float = 0.0) -> Callable[[int], tuple[float, float]]:
    """Units and seconds of so many calls; of each, `less_s` are no part of the work, unless that were most of it."""

    def run(rounds: int) -> tuple[float, float]:
        started = time.perf_counter()
        for _ in range(rounds):
            call()
        taken = time.perf_counter() - started
        return rounds * units, max(taken - rounds * less_s, taken / 4)

    return run


def main(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    with torch.inference_mode(), Watch() as watch:
        rates = measure(list(loops(threads)), SECONDS, middle=FASTER)
    said = {"rates": [asdict(rate) for rate in rates], "busy": watch.foreign_share or 0.0}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main(int(sys.argv[1]))
