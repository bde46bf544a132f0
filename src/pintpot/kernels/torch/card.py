"""A graphics card that takes steps of AdamW on values of the host's: they are copied there, updated, and copied back.

Copies in either direction and arithmetic go through streams of their own, so that all three run side by side with the
processor. With as many places as there are streams none of them waits for room.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, final

import torch

from pintpot.errors import UnsupportedPlatform, need
from pintpot.kernels.torch.adam import Rates, adam

_log = logging.getLogger(__name__)
_cuda: Any = torch.cuda
Four = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Values, their gradient, and both means, float32 [n] each, in the host's memory."""


class Card(ABC):
    """A second device. What it was given must stay as it is until `wait`."""

    @abstractmethod
    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """These are what will be given, whole or in parts: they stay where they are in memory."""

    @abstractmethod
    def give(self, four: Four, rates: Rates) -> None:
        """One step on these, begun before it returns; waits while all places are taken."""

    @abstractmethod
    def wait(self) -> None:
        """Until everything that was given is back."""

    @abstractmethod
    def release(self) -> None:
        """Nothing more comes."""


@final
class CudaCard(Card):
    """The first CUDA device, with room for `places` times `most` values. Raises UnsupportedPlatform without one."""

    def __init__(self, most: int, places: int) -> None:
        need(torch.cuda.is_available(), "updates take turns with a graphics card; here is none", UnsupportedPlatform)
        device = torch.device("cuda")
        self._there = [torch.empty((4, most), device=device) for _ in range(places)]
        # Gradients are in new memory every time, which the card could not read by itself.
        self._staged = [torch.empty(most, pin_memory=True) for _ in range(places)]
        self._back = [_cuda.Event() for _ in range(places)]
        self._arriving, self._computing, self._leaving = (_cuda.Stream(device) for _ in range(3))
        self._given = 0
        self._held: list[torch.Tensor] = []

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """They are locked in place, so that copies need not wait; what cannot be locked is copied all the same."""
        for one in tensors:
            failed = int(_cuda.cudart().cudaHostRegister(one.data_ptr(), one.numel() * one.element_size(), 0))
            if failed:
                _forget_error(failed, one.numel() * one.element_size())
            else:
                self._held.append(one)

    def give(self, four: Four, rates: Rates) -> None:
        place, size = self._given % len(self._there), four[0].numel()
        self._given += 1
        self._back[place].synchronize()
        there, staged = self._there[place][:, :size].unbind(0), self._staged[place][:size]
        staged.copy_(four[1])
        with _cuda.stream(self._arriving):
            _copied(there, (four[0], staged, *four[2:]))
        self._computing.wait_stream(self._arriving)
        with _cuda.stream(self._computing):
            adam(there[0], there[1], there[2], there[3], rates)
        self._leaving.wait_stream(self._computing)
        with _cuda.stream(self._leaving):
            _copied((four[0], *four[2:]), (there[0], *there[2:]))
            self._back[place].record()

    def wait(self) -> None:
        self._leaving.synchronize()

    def release(self) -> None:
        self.wait()
        for one in self._held:
            _cuda.cudart().cudaHostUnregister(one.data_ptr())
        self._held.clear()
        self._there.clear()


def _forget_error(number: int, num_bytes: int) -> None:
    """CUDA tells the error of a call to whoever asks next, and that is the next kernel of PyTorch's."""
    try:
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        _log.debug("%s", error)
    _log.info("%d bytes cannot be locked in memory (CUDA's error %d); copies of them take longer", num_bytes, number)


def _copied(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)
