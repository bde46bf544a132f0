"""Moments that rest on disk, as those in memory are asked for: a record of them is read ahead, and written behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch

from pintpot.trainer.moments import Moments, moments_in
from pintpot.trainer.resting import Resting


@final
class Passing(Moments):
    """Moments that are read before they are wanted, and written behind."""

    def __init__(self, resting: Resting, name: str, states: str) -> None:
        self._resting, self._name, self._states = resting, name, states
        place = resting.places[name]
        self._values = place.at_once * place.columns
        self._record: torch.Tensor | None = None
        self._inner: Moments | None = None

    def read(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        record = self._resting.take(self._name, part.start // self._values)
        self._record, self._inner = record, moments_in(record, part.stop - part.start, self._states)
        return self._inner.read(slice(0, part.stop - part.start))

    def write(self, part: slice, m: torch.Tensor, v: torch.Tensor) -> None:
        if self._inner is None or self._record is None:
            raise ValueError(f"moments of {self._name} were not read")
        self._inner.write(slice(0, part.stop - part.start), m, v)
        self._resting.put(self._name, part.start // self._values, self._record)
        self._inner = self._record = None

    def tensors(self, name: str) -> Mapping[str, torch.Tensor]:
        """They are in the file."""
        return {}
