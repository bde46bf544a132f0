"""Loops over a network as generators: each yields what is to be computed next and is sent the answer.

No loop knows a device, a file or a library. Whoever drives one computes what it asks for, stops when it pleases, and
tells of progress; so a session, a proof and a test share the loop.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from pintpot.runtime.schedules import Move


@dataclass(frozen=True, slots=True)
class Ask:
    """What a denoising network is to be asked: `x` [N, C, H, W] at `time`, the step `index` of `num_steps`."""

    x: Any
    time: float
    index: int
    num_steps: int


Denoising = Generator[Ask, Any, Any]


def denoise(x: Any, moves: Sequence[Move], guidance: float | None = None) -> Denoising:
    """From noise `x` [N, C, H, W] to images of the same shape, arrays of numpy or of PyTorch.

    Each answer has x's shape, channels beyond those of x (a guess at the variance) being left out. With `guidance` it
    is [2N, C, H, W], the second half without a condition, and the answers differ from that by so much more than they
    would (classifier-free guidance, Ho and Salimans 2022, arXiv:2207.12598).
    """
    for index, move in enumerate(moves):
        answer = yield Ask(x, move.time, index, len(moves))
        answer = answer[:, : x.shape[1]]
        if guidance is not None:
            asked, free = answer[: len(x)], answer[len(x) :]
            answer = free + guidance * (asked - free)
        x = move(x, answer)
    return x
