"""PyTorch's own threads: lent to the native engine, so that one set of threads computes all of a module, and kept few.

OpenMP's threads look for work for milliseconds after each call, so a second set beside them would find its processors
taken: between two calls of ATen a product of two threads ran like one of one and a half.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import torch


def fork_address() -> int:
    """Where the OpenMP that PyTorch was linked with runs a function on its threads; 0 where nothing of it is found."""
    found = _of_openmp("GOMP_parallel")
    return 0 if found is None else ctypes.cast(found, ctypes.c_void_p).value or 0


def compute_alone() -> None:
    """From now on the thread that calls this computes by itself, and leaves the processors to one set of threads."""
    torch.get_num_threads()  # or else the first call would set them
    found = _of_openmp("omp_set_num_threads")
    if found is not None:
        found(1)


def _of_openmp(name: str) -> Any | None:
    mode = getattr(os, "RTLD_NOLOAD", 0) | os.RTLD_LAZY
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            return getattr(ctypes.CDLL(str(path), mode=mode), name)
        except (OSError, AttributeError):
            continue
    return None
