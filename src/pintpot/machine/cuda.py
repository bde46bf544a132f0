"""A graphics card's own rates, through torch, which is imported only where a card was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pintpot.machine.features import has_nvidia
from pintpot.machine.measure import Loop
from pintpot.machine.spec import Device

_READ_BYTES = 1 << 30
_COPY_BYTES = 64 << 20
_SIDE = 4096
_Run = Callable[[int], tuple[float, float]]


def cuda_device(devices: Path = Path("/dev")) -> Device | None:
    """The first card that torch can use; None without a card or without torch, and then torch is not imported."""
    if not has_nvidia(devices) or find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    card = torch.cuda.get_device_properties(0)
    free, _ = torch.cuda.mem_get_info(0)
    features = (f"sm_{card.major}{card.minor}",)
    return Device(card.name, "cuda", free, card.multi_processor_count, features)


def cuda_loops(notes: list[str]) -> Iterator[Loop]:
    """Memory bandwidth, copies from pinned and pageable memory, and matrix products by data type.

    Each is tried once, which also loads its kernel. What the card refuses, or has no room for, is left out, and `notes`
    says why.
    """
    for what, size, make in _wanted():
        try:
            run = make()
            run(1)
        except RuntimeError as error:  # what torch raises for its card, out of memory included
            notes.append(f"{what} was not measured: {str(error).partition(chr(10))[0]}")
        else:
            yield Loop(what, 1, size, run)


def _wanted() -> Iterator[tuple[str, int, Callable[[], _Run]]]:
    """What to time, its size, and what makes it ready."""
    import torch

    free, _ = torch.cuda.mem_get_info(0)
    size = min(_READ_BYTES, free // 8) // 4 * 4
    yield "cuda/read", size, partial(_reading, size)
    for name, pinned in (("pinned", True), ("pageable", False)):
        yield f"cuda/h2d_{name}", _COPY_BYTES, partial(_copying, pinned)
    yield "cuda/d2h_pinned", _COPY_BYTES, _copying_back
    for name, dtype in (("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16), ("int8", torch.int8)):
        yield f"cuda/matmul/{name}", _SIDE, partial(_multiplying, dtype)


def _reading(num_bytes: int) -> _Run:
    import torch

    block = torch.ones(num_bytes // 4, dtype=torch.float32, device=torch.device("cuda"))
    return _timed(lambda: block.sum(), float(num_bytes))


def _copying(pinned: bool) -> _Run:
    import torch

    target = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=torch.device("cuda"))
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, pin_memory=pinned)
    return _timed(lambda: target.copy_(source, non_blocking=True), float(_COPY_BYTES))


def _copying_back() -> _Run:
    import torch

    target = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=torch.device("cuda"))
    return _timed(lambda: target.copy_(source, non_blocking=True), float(_COPY_BYTES))


def _multiplying(dtype: Any) -> _Run:
    """torch.mm takes no int8 on a card, and its int8 product wants the right side by columns."""
    import torch

    left = torch.ones((_SIDE, _SIDE), dtype=dtype, device=torch.device("cuda"))
    product = partial(torch._int_mm, left, left.t()) if dtype == torch.int8 else partial(torch.mm, left, left)
    return _timed(product, float(_SIDE) ** 3)


def _timed(once: Callable[[], Any], units: float) -> _Run:
    import torch

    def run(rounds: int) -> tuple[float, float]:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(rounds):
            once()
        torch.cuda.synchronize()
        return rounds * units, time.perf_counter() - start

    return run
