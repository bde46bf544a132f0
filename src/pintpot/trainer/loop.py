"""The loop of learning as a generator: it yields what happened, and whoever drives it prints, saves, or stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pintpot.budget import Train
from pintpot.contract.tutor import ALONE, Tutor
from pintpot.errors import Diverged
from pintpot.trainer.checkpoint import Progressed
from pintpot.trainer.learned import Learned, Pace
from pintpot.trainer.network import Network
from pintpot.trainer.packing import Order, Sequences


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step was taken: how many are behind, of how many, its mean loss in nats a word, and its seconds."""

    step: int
    steps: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What was held out was asked after so many steps: its mean loss in nats a word."""

    step: int
    loss: float


Event = Stepped | Asked


@dataclass(frozen=True)
class Task:
    """What is learned, what is asked, in which order, and how fast."""

    train: Train
    pace: Pace
    learns: Sequences
    held_out: Sequences
    order: Order

    def asks_after(self, step: int) -> bool:
        """Whether what was held out is asked after so many steps: before, after, and evenly between."""
        last = self.train.evaluations - 1
        return any(step == index * self.train.steps // max(1, last) for index in range(self.train.evaluations))


Take = Callable[[Sequences, int], float]
"""Takes one step, counted from 0, on some sequences, and says their mean loss."""


def descending(network: Network, learned: Learned, task: Task, fused: bool = False, tutor: Tutor = ALONE) -> Take:
    """Steps by AdamW along gradients; `fused` updates follow each block's. The `tutor` says what rests."""

    def take(sequences: Sequences, at: int) -> float:
        grads: dict[str, torch.Tensor] = {}
        update = partial(learned.update, pace=task.pace, step=at, steps=task.train.steps)
        if fused:
            return network.learn(sequences, update, tutor.resting(at))
        loss = network.learn(sequences, grads.update, tutor.resting(at))
        update(grads)
        return loss

    return take


def learn(network: Network, take: Take, task: Task, done: Progressed) -> Iterator[Event]:
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
        yield Stepped(done.step, train.steps, loss, time.perf_counter() - started)


def _asked(network: Network, task: Task, done: Progressed) -> Asked:
    ranks, held = network.ranks, task.held_out
    batch = task.train.sequences * ranks.count
    # All processes go through as many batches, be they empty.
    parts = [
        network.losses(held.take(np.arange(first + ranks.number, min(len(held), first + batch), ranks.count)))
        for first in range(0, len(held), batch)
    ]
    losses = torch.cat(parts).double()
    total, count = ranks.total(torch.stack((losses.sum(), torch.tensor(float(len(losses)), dtype=losses.dtype))))
    loss = float(total / count)
    done.asked.append((done.step, loss))
    return Asked(done.step, loss)
