"""PyTorch's own threads, lent to the native engine: one set of threads computes all of a module.

OpenMP's threads look for work for milliseconds after each call, so a second set beside them would find its processors
taken: between two calls of ATen a product of two threads ran like one of one and a half.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch


def fork_address() -> int:
    """Where the OpenMP that PyTorch was linked with runs a function on its threads; 0 where nothing of it is found."""
    mode = getattr(os, "RTLD_NOLOAD", 0) | os.RTLD_LAZY
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*")):
        try:
            return ctypes.cast(ctypes.CDLL(str(path), mode=mode).GOMP_parallel, ctypes.c_void_p).value or 0
        except (OSError, AttributeError):
            continue
    return 0
