"""Where in a file what learns lies that rests on disk, and the memory through which it passes."""

from __future__ import annotations

from dataclasses import dataclass
from queue import Queue

import numpy as np
import torch

from pintpot.contract.form import Form
from pintpot.contract.resting import HUGE_PAGE, record_bytes, record_rows, resting_bytes, rests_on_disk, whole_blocks
from pintpot.errors import DoesNotFit
from pintpot.kernels.torch.room import large_pages
from pintpot.stream.border import native_errors


@dataclass(frozen=True)
class Place:
    """Where in a version a matrix [N, K] lies, and its moments: records of `at_once` rows, `record_bytes` apart."""

    rows: int
    columns: int
    values_at: int
    moments_at: int
    at_once: int
    record_bytes: int

    @property
    def row_bytes(self) -> int:
        return 4 * self.columns


def places_of(form: Form) -> tuple[dict[str, Place], int]:
    """The places of everything that rests on disk, and the bytes of a version: values by block, then all moments."""
    states = form.training.states if form.training else ""
    weights = [weight for weight in form.weights if rests_on_disk(weight, form.training)]
    sizes = {weight.name: resting_bytes((weight.shape[0], weight.shape[1]), states) for weight in weights}
    at, moments_at = 0, sum(values for values, _ in sizes.values())
    found: dict[str, Place] = {}
    for weight in weights:
        rows, columns = weight.shape
        values, moments = sizes[weight.name]
        at_once = min(rows, record_rows(columns))
        found[weight.name] = Place(rows, columns, at, moments_at, at_once, record_bytes(at_once * columns, states))
        at, moments_at = at + values, moments_at + moments
    return found, moments_at


def pool_of(count: int, num_bytes: int) -> Queue[torch.Tensor]:
    """So many pieces of memory to take and to give back, which lie side by side."""
    found: Queue[torch.Tensor] = Queue()
    if num_bytes:
        apart = whole_blocks(num_bytes)
        memory = aligned_memory(count * apart).numpy()
        for at in range(0, count * apart, apart):
            # Views of one tensor would count what is changed together, and autograd watches that.
            found.put(torch.from_numpy(memory[at : at + num_bytes]))
    return found


def aligned_memory(num_bytes: int) -> torch.Tensor:
    """Memory that is there, at the beginning of a page: uint8 [num_bytes]. Raises DoesNotFit.

    In large pages where there are any: disks take directly from those, and put there, in half of the time.
    """
    large = num_bytes >= HUGE_PAGE
    with native_errors(f"{num_bytes} bytes of memory", DoesNotFit):
        whole = np.frombuffer(large_pages(num_bytes + HUGE_PAGE * large), np.uint8)
    first = -whole.ctypes.data % HUGE_PAGE if large else 0
    return torch.from_numpy(whole[first : first + num_bytes]).zero_()


def bytes_of(memory: torch.Tensor) -> memoryview:
    """The bytes of some memory."""
    return memory.numpy().data
