"""What the C library does with memory that was freed: it goes back to the system, or is kept and used again."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

from pintpot.meter.memory import resident_bytes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_KEPT = 32 << 20
_WORTHWHILE = 16 << 20
"""What is given back is found again page by page, which takes time; less is not looked for."""

FITS = 0.9
"""Of what waits to be used again between blocks that are alike, what the next one surely uses."""

Look = Callable[..., None]
"""Takes `block`: whether a block comes next."""


def give_back() -> None:
    """What was freed goes back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def give_back_all() -> None:
    """The same, and tensors' memory that waits to be used again."""
    from pintpot.kernels.torch import room

    gc.collect()
    room.give_back(room.waiting_bytes())
    give_back()


def keep_freed() -> None:
    """From now on what is freed is used again, not mapped anew: a step's buffers come and go all the time."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_ARENA_MAX, 1)  # what the reading thread frees is for the others, too
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
    libc.mallopt(_TRIM_THRESHOLD, _LARGEST_KEPT)


def kept_below(most_bytes: int, block_bytes: int, alike: bool = False) -> Look:
    """What to call before a block: what was freed goes back to the system where the block would pass `most_bytes`.

    As tensors begin where they must, pieces that were freed do not fit what is asked for next; more and more is kept.
    A block takes `block_bytes`; where blocks are `alike`, those that wait to be used again are among these, unless what
    comes is no `block`.
    """
    from pintpot.kernels.torch import room

    libc, after = ctypes.CDLL(None), [0]

    def look(block: bool = True) -> None:
        again = FITS * min(block_bytes, room.waiting_bytes()) if alike and block else 0
        most = most_bytes - block_bytes + int(again)
        room.give_back(resident_bytes() - most)
        if resident_bytes() > max(most, after[0] + _WORTHWHILE):
            libc.malloc_trim(0)
            after[0] = resident_bytes()

    return look
