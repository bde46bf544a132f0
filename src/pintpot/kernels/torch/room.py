"""Large tensors whose memory is used again: what the C library frees seldom fits what is asked for next.

Tensors begin where vectors do, so a piece that is freed is a little too short for one of the same size, and more and
more is kept; and memory that is mapped anew costs 0.2 s a GB before anything is written to it.
"""

from __future__ import annotations

from contextlib import suppress
from math import prod
from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, mmap
from threading import Lock
from weakref import finalize

import numpy as np
import torch

LEAST_BYTES = 1 << 14
"""Smaller tensors are left to PyTorch."""
LARGER = 1.5
"""So many times as large at most is a piece that is taken for something."""
_waiting: list[mmap] = []
"""Appended to without the lock: a tensor may end within `_found`, whose thread holds it, and appending is one step."""
_lock = Lock()


def room(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor of whatever values; when nobody has it any more, its memory is that of another one."""
    num_bytes = prod(shape) * dtype.itemsize
    if num_bytes < LEAST_BYTES:
        return torch.empty(shape, dtype=dtype)
    region = _found(num_bytes) or large_pages(num_bytes)
    memory = np.frombuffer(region, np.uint8, num_bytes)
    finalize(memory, _waiting.append, region).atexit = False
    return torch.from_numpy(memory).view(dtype).view(shape)


def copied(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Values in another dtype; they themselves where they have it."""
    if values.dtype == dtype:
        return values
    return room(tuple(values.shape), dtype).copy_(values)


def waiting_bytes() -> int:
    """What waits to be used again."""
    with _lock:
        return sum(map(len, _waiting))


def give_back(num_bytes: int) -> None:
    """So much of what waits to be used again, if it is so much, goes back to the system; what waited longest first."""
    with _lock:
        while _waiting and num_bytes > 0:
            num_bytes -= len(_waiting.pop(0))


def large_pages(num_bytes: int) -> mmap:
    """New memory of this process alone, in large pages where the system has any."""
    region = mmap(-1, num_bytes, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    with suppress(OSError):
        region.madvise(MADV_HUGEPAGE)
    return region


def _found(num_bytes: int) -> mmap | None:
    """The smallest piece that is large enough, and not much larger."""
    with _lock:
        fitting = [one for one in _waiting if num_bytes <= len(one) <= LARGER * num_bytes]
        if not fitting:
            return None
        found = min(fitting, key=len)
        _waiting.remove(found)
        return found
