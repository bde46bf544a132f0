"""Numbers too small to be normal are zero while a model learns, and what they are otherwise before and after it.

Gradients are often that small, and processors then take many times as long. Whether they are flushed is each thread's
own to know: OpenMP's threads take it from the one that starts them, and keep it for as long as they live.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_MAPS = Path("/proc/self/maps")
_PAUSE_HARD = 2
"""OpenMP 5.0, omp_pause_hard: nothing of its threads outlives the call."""


@contextmanager
def flushed() -> Iterator[None]:
    """In this thread, and in those of OpenMP that compute for it."""
    before = float(torch.tensor(1e-39) * 0.5) == 0.0
    _flush(True)
    try:
        yield
    finally:
        _flush(before)


def _flush(wanted: bool) -> None:
    torch.set_flush_denormal(wanted)
    for path in _openmp():
        # Threads that are there know it the other way; they end, and the next call of PyTorch starts new ones.
        ctypes.CDLL(path).omp_pause_resource_all(_PAUSE_HARD)


def _openmp() -> set[str]:
    """The files of OpenMP that this process runs; none are known where the system does not list them."""
    if not _MAPS.exists():
        return set()
    files = {line.split(maxsplit=5)[-1] for line in _MAPS.read_text().splitlines()}
    return {path for path in files if Path(path).name.startswith(("libgomp", "libiomp", "libomp"))}
