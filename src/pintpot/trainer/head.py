"""The head of a network that learns, whose rows pass by some at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pintpot.kernels.torch.loss import head_grad
from pintpot.program.spec import Op, Work
from pintpot.trainer.packing import NOT_LEARNED, Sequences


@dataclass(frozen=True)
class Head:
    """What gradients of the head's rows are made of.

    `states` [T, D] that met them, the words `targets` [T] that were asked, `log_z` [T] of each; the gradient of its
    norm; and by what `scale` the sum of all losses becomes their mean.
    """

    states: torch.Tensor
    targets: torch.Tensor
    log_z: torch.Tensor
    norm: torch.Tensor
    scale: float

    def grad(self, first: int, rows: torch.Tensor) -> torch.Tensor:
        """Gradients of some of its rows [n, D], from `first` on."""
        return head_grad(self.states, self.targets, first, rows, self.log_z, self.scale)


def head_of(work: Work) -> Op:
    """The op of the loss."""
    return next(op for one in work.programs() for op in one.ops if op.kind == "cross_entropy")


def tile_rows(work: Work) -> int:
    """Rows of a vocabulary that are computed with at a time, 0 without one."""
    found = (op.get("chunk") for one in work.programs() for op in one.ops if op.kind == "cross_entropy")
    return int(next(found, 0))


def asked(sequences: Sequences) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose next word is learned, and these words."""
    targets = torch.from_numpy(sequences.targets).flatten().long()
    rows = (targets != NOT_LEARNED).nonzero().flatten()
    return rows, targets[rows]
