"""Who takes the optimizer's steps on what learns: this processor, one piece after the other, or others beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from pintpot.kernels.torch.adam import Rates

RECORD = 0
"""As the size of a piece: a record of moments, see `contract.resting`. Any other is whole vectors, a multiple of 16:
a piece's last values are not rounded as those in vectors are."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some values that learn, their gradient and both means, float32 [n] each; `kept` is called when they are new."""

    value: torch.Tensor
    grad: torch.Tensor
    m: torch.Tensor
    v: torch.Tensor
    kept: Callable[[], None]


class Updating:
    """Every piece as it comes. A technique puts another one into the slots."""

    piece_values: ClassVar[int] = RECORD

    def begin(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Before the first step: all in memory that steps change."""

    def step(self, pieces: Iterable[Piece], rates: Rates) -> None:
        """All of these are new when it returns."""
        for piece in pieces:
            update(piece, rates)

    def end(self) -> None:
        """After the last one."""


def update(piece: Piece, rates: Rates) -> None:
    """One piece, here and now."""
    from pintpot.kernels.torch.adam import adam

    adam(piece.value, piece.grad, piece.m, piece.v, rates)
    piece.kept()
