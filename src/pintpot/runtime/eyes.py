"""The half of an open vision-language pack that sees: a picture in, rows of embedding out."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray

from pintpot.kernels.torch.bind import Forward, Memory, native_leaves
from pintpot.model.joined import VISION
from pintpot.planner.plan import Plan
from pintpot.program.layout import Layout
from pintpot.program.spec import Work
from pintpot.runtime.bound import Stages, addresses_of
from pintpot.runtime.memory import PackMemory
from pintpot.runtime.module import StageCall, fill_constants, stages_of, warm_up
from pintpot.runtime.pictures import Picture
from pintpot.runtime.sights import Source, sight

__all__ = ["Eyes", "drawn_inputs", "warm_up"]


REMEMBERED = 1 << 16
"""Pictures whose tokens are known when they come again."""


class Eyes:
    """Turns a picture into rows, by the recorded stage of the pack; equal pictures have equal tokens.

    `seconds` are those of all pictures so far.
    """

    def __init__(self, plan: Plan, work: Work, layout: Layout, memory: PackMemory, stages: Stages) -> None:
        self._parts = tuple(part for part in plan.parts if part.name == VISION)
        ((part, recorded),) = stages_of(self._parts)
        self.about: Mapping[str, Any] = part.config["kind"]
        self._arenas, self.seconds = memory.arenas, 0.0
        stage = work.stage(part.prefix + recorded["name"])
        program = stage.programs[0]
        torch.set_num_threads(plan.threads)
        self._memory = Memory(program, addresses_of(program, layout, memory), list(memory.arenas.values()))
        forward = Forward(program, native_leaves(stages[stage.name]), self._memory)
        self._call = StageCall(recorded, forward, self._memory, part.prefix)
        self._known: dict[bytes, int] = {}
        self._row, self._lock = 0, Lock()
        self._held: WeakSet[Picture] = WeakSet()

    def fill(self, layout: Layout) -> None:
        """Write what the recording came with into the memory laid out for it."""
        fill_constants(self._parts, layout, self._arenas)

    def close(self) -> None:
        """Let go of memory."""
        self._call.close()
        self._memory.close()
        self._arenas = {}

    def read(self, source: Source) -> Picture:
        """A picture. Raises BadInput for what is none."""
        with self._lock:  # one at a time: large ones take memory on their way
            inputs = sight(str(self.about["name"])).read(self.about, source)
        return self.picture(inputs)

    @property
    def held_bytes(self) -> int:
        """What pictures take that somebody still has."""
        return sum(one.nbytes for picture in tuple(self._held) for one in picture.tensors.values())

    def drawn(self, seed: int) -> Picture:
        """A picture that nobody took, one for each seed."""
        return self.picture(drawn_inputs(self.about, seed))

    def picture(self, inputs: Mapping[str, NDArray[Any]]) -> Picture:
        """Inputs of the tower as a picture; the same ones have the same tokens, for as long as they are remembered."""
        key = b"".join(np.ascontiguousarray(one).tobytes() for _, one in sorted(inputs.items()))
        digest = _digest(key)
        time, height, width = self.about["grid"]
        with self._lock:
            first = self._known.pop(digest, self._row)
            found = Picture(first, (time, height, width), dict(inputs))
            self._known[digest] = first
            self._row += found.num_rows if first == self._row else 0
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
            self._held.add(found)
        return found

    def __call__(self, picture: Picture) -> dict[str, NDArray[np.float32]]:
        """Rows of embedding by the buffer that takes them."""
        named = {name: torch.from_numpy(np.ascontiguousarray(one)) for name, one in picture.tensors.items()}
        found = self._call(**named)
        self.seconds += self._call.seconds
        return {name: rows.numpy() for name, rows in found.items()}


def drawn_inputs(about: Mapping[str, Any], seed: int) -> dict[str, NDArray[Any]]:
    """Inputs of a tower that nobody took a picture for: those that it was recorded with, paler by the seed."""
    shade = np.float32(np.random.default_rng(seed).uniform(0.5, 1.0))
    return {name: one * shade for name, one in sight(str(about["name"])).examples(about).items()}


def _digest(data: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(data).digest()
