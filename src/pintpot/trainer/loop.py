"""The loop of learning as a generator: it yields what happened, and whoever drives it prints, saves, or stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pintpot.budget import Train
from pintpot.contract.tutor import ALONE, Tutor
from pintpot.errors import Diverged
from pintpot.trainer.blocks import Update
from pintpot.trainer.checkpoint import Progressed
from pintpot.trainer.learned import Learned, Pace
from pintpot.trainer.packing import Order
from pintpot.trainer.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step was taken: how many are behind, of how many, its mean loss in nats, its seconds, and what it went over."""

    step: int
    steps: int
    loss: float
    seconds: float
    tokens: int = 0
    unit: str = "tok"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was held out was asked after so many steps: its mean loss in nats, and of pictures the share told right."""

    step: int
    loss: float
    right: float | None = None


Event = Stepped | Asked


class Examples(Protocol):
    """What is learned from: sequences of words, or pictures."""

    def __len__(self) -> int: ...

    @property
    def num_bytes(self) -> int:
        """What they take in memory."""

    @property
    def names(self) -> tuple[str, ...]:
        """What lines call their tasks."""

    def take(self, rows: NDArray[np.integer]) -> Any:
        """Some of them, in the order of `rows`."""


class Learner(Protocol):
    """A network that learns from examples of its kind."""

    @property
    def ranks(self) -> Ranks:
        """The processes that learn together."""

    def losses(self, examples: Any) -> torch.Tensor:
        """The loss of each answer [n]; or [2, n], in the second row 1 for those that are right."""

    def learn(self, examples: Any, update: Update, resting: frozenset[str] = frozenset()) -> float:
        """The mean loss of a step; gradients go to `update`, those of a block at a time, none of what is `resting`.

        Raises Diverged where a loss or a gradient is no number.
        """


@dataclass(frozen=True)
class Task:
    """What is learned, what is asked, in which order, and how fast."""

    train: Train
    pace: Pace
    learns: Examples
    held_out: Examples
    order: Order

    def asks_after(self, step: int) -> bool:
        """Whether what was held out is asked after so many steps: before, after, and evenly between."""
        last = self.train.evaluations - 1
        return any(step == index * self.train.steps // max(1, last) for index in range(self.train.evaluations))


Take = Callable[[Any, int], float]
"""Takes one step, counted from 0, on some examples, and says their mean loss."""


def descending(network: Learner, learned: Learned, task: Task, fused: bool = False, tutor: Tutor = ALONE) -> Take:
    """Steps by AdamW along gradients; `fused` updates follow each block's. The `tutor` says what rests."""

    def take(sequences: Any, at: int) -> float:
        grads: dict[str, torch.Tensor] = {}
        update = partial(learned.update, pace=task.pace, step=at, steps=task.train.steps)
        if fused:
            return network.learn(sequences, update, tutor.resting(at))
        loss = network.learn(sequences, grads.update, tutor.resting(at))
        update(grads)
        return loss

    return take


def learn(network: Learner, take: Take, task: Task, done: Progressed) -> Iterator[Event]:
    """Take the steps that are left; `done` grows with them. Raises Diverged with the step, and the block."""
    train = task.train
    while True:
        # Whoever was ended between a checkpoint and this question has not asked it yet.
        if task.asks_after(done.step) and done.step not in dict(done.asked):
            yield _asked(network, task, done)
        if done.step >= train.steps:
            return
        started = time.perf_counter()
        sequences = task.learns.take(task.order.rows(done.step))
        try:
            loss = take(sequences, done.step)
        except Diverged as error:
            raise Diverged(
                f"step {done.step + 1}: {error}. What was learned up to the last checkpoint is kept; try a lower "
                f"learning rate than {task.pace.learning_rate:g}, more steps of warm-up, or float32"
            ) from error
        done.step += 1
        done.losses.append(loss)
        seconds = time.perf_counter() - started
        yield Stepped(done.step, train.steps, loss, seconds, train.tokens * network.ranks.count, train.units)


def _asked(network: Learner, task: Task, done: Progressed) -> Asked:
    ranks, held = network.ranks, task.held_out
    batch = task.train.sequences * ranks.count
    # All processes go through as many batches, be they empty.
    parts = [
        network.losses(held.take(np.arange(first + ranks.number, min(len(held), first + batch), ranks.count)))
        for first in range(0, len(held), batch)
    ]
    told = torch.cat(parts, dim=-1).double()
    sums = torch.cat((told.view(-1, told.shape[-1]).sum(dim=1), torch.tensor([told.shape[-1]], dtype=told.dtype)))
    *means, count = ranks.total(sums).tolist()
    loss, right = means[0] / count, [one / count for one in means[1:]]
    done.asked.append((done.step, loss))
    done.right += [(done.step, share) for share in right]
    return Asked(done.step, loss, right[0] if right else None)
