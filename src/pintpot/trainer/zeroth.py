"""Steps without gradients: what learns moves to either side along a drawn direction, and follows the lower loss.

MeZO, Malladi et al. 2023, arXiv:2305.17333. The direction z is normal, drawn anew from (seed, step, number of the
tensor) whenever it is wanted, some values at a time, so it is never in memory. A step is w -= rate g z, where
g = (loss(w + d z) - loss(w - d z)) / 2d; the way back from w - d z is gone in one with it. What rounding leaves behind
of these moves is less than two units in the last place of a weight for each step, of either sign.
"""

from __future__ import annotations

import torch

from pintpot.errors import Diverged
from pintpot.trainer.learned import Learned
from pintpot.trainer.loop import Take, Task
from pintpot.trainer.moments import chunks
from pintpot.trainer.network import Network
from pintpot.trainer.packing import Sequences

_SEEDS = 2**63 - 25


def seed_of(seed: int, step: int, number: int) -> int:
    """Of the direction of a step in one tensor."""
    return (seed * 1_000_003 + step * 8_191 + number * 2_305_843_009_213_693_951 + 1) % _SEEDS


def move(learned: Learned, seed: int, step: int, by: float, decay: float = 0.0) -> None:
    """Everything that learns goes `by` times the direction of this step; matrices lose `decay` of themselves before."""
    for number, value in enumerate(learned.values.values()):
        draw = torch.Generator().manual_seed(seed_of(seed, step, number))
        flat = value.view(-1)
        if decay and value.dim() > 1:
            flat.mul_(1 - decay)
        for part in chunks(len(flat)):
            flat[part].add_(torch.randn(part.stop - part.start, generator=draw), alpha=by)


def slope(network: Network, learned: Learned, sequences: Sequences, way: tuple[int, int, float]) -> tuple[float, float]:
    """The mean of the losses on either side, and how steep they rise along the direction of `way` (seed, step, d).

    What learns is left on the far side, at w - d z. Raises Diverged where a loss is no number.
    """
    seed, step, distance = way
    losses = []
    for by in (distance, -2 * distance):
        move(learned, seed, step, by)
        losses.append(float(network.losses(sequences).double().mean()))
    ahead, behind = losses
    if not (torch.tensor(losses).isfinite().all()):
        raise Diverged(f"the losses on either side are {ahead:g} and {behind:g}")
    return (ahead + behind) / 2, (ahead - behind) / (2 * distance)


def following(network: Network, learned: Learned, task: Task, seed: int, distance: float) -> Take:
    """Steps by what two losses say, `distance` to either side."""

    def take(sequences: Sequences, at: int) -> float:
        loss, steep = slope(network, learned, sequences, (seed, at, distance))
        rate = task.pace.rate(at, task.train.steps)
        move(learned, seed, at, distance - rate * steep, rate * task.pace.weight_decay)
        return loss

    return take
