"""The half of an open vision-language pack that sees: a picture in, rows of embedding out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from pintpot.runtime.sights import sight

__all__ = ["Eyes", "drawn_inputs", "warm_up"]


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
        self._known: dict[bytes, Picture] = {}
        self._row = 0

    def fill(self, layout: Layout) -> None:
        """Write what the recording came with into the memory laid out for it."""
        fill_constants(self._parts, layout, self._arenas)

    def close(self) -> None:
        """Let go of memory."""
        self._call.close()
        self._memory.close()
        self._arenas = {}

    def read(self, path: Path) -> Picture:
        """A picture's file. Raises BadInput for what is none."""
        return self.picture(sight(str(self.about["name"])).read(self.about, path))

    def drawn(self, seed: int) -> Picture:
        """A picture that nobody took, one for each seed."""
        return self.picture(drawn_inputs(self.about, seed))

    def picture(self, inputs: Mapping[str, NDArray[Any]]) -> Picture:
        """Inputs of the tower as a picture; the same ones are the same picture."""
        key = b"".join(np.ascontiguousarray(one).tobytes() for _, one in sorted(inputs.items()))
        digest = _digest(key)
        if digest not in self._known:
            time, height, width = self.about["grid"]
            found = Picture(self._row, (time, height, width), dict(inputs))
            self._row += found.num_rows
            self._known[digest] = found
        return self._known[digest]

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
