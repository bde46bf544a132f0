"""A graphics card's own rates, through torch, which is imported only where a card was seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pintpot.machine.features import has_nvidia
from pintpot.machine.measure import Loop
from pintpot.machine.spec import Device

_READ_BYTES = 1 << 30
_COPY_BYTES = 64 << 20
_SIDE = 4096


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


def cuda_loops() -> Iterator[Loop]:
    """Memory bandwidth, copies from pinned and pageable memory, and matrix products by data type."""
    import torch

    card = torch.device("cuda")
    free, _ = torch.cuda.mem_get_info(0)
    size = min(_READ_BYTES, free // 8) // 4
    block = torch.ones(size, dtype=torch.float32, device=card)
    yield Loop("cuda/read", 1, 4 * size, _timed(lambda: block.sum(), 4.0 * size))
    target = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=card)
    for name, pinned in (("pinned", True), ("pageable", False)):
        source = torch.ones(_COPY_BYTES, dtype=torch.uint8, pin_memory=pinned)
        run = _timed(_copier(target, source), float(_COPY_BYTES))
        yield Loop(f"cuda/h2d_{name}", 1, _COPY_BYTES, run)
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int8):
        short = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int8: "int8"}[dtype]
        left = torch.ones((_SIDE, _SIDE), dtype=dtype, device=card)
        yield Loop(f"cuda/matmul/{short}", 1, _SIDE, _timed(_multiplier(left), float(_SIDE) ** 3))


def _copier(target: Any, source: Any) -> Callable[[], Any]:
    return lambda: target.copy_(source, non_blocking=True)


def _multiplier(left: Any) -> Callable[[], Any]:
    import torch

    if left.dtype == torch.int8:
        return lambda: torch._int_mm(left, left.t())
    return lambda: torch.mm(left, left)


def _timed(once: Callable[[], Any], units: float) -> Callable[[int], tuple[float, float]]:
    import torch

    def run(rounds: int) -> tuple[float, float]:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(rounds):
            once()
        torch.cuda.synchronize()
        return rounds * units, time.perf_counter() - start

    return run
