"""Cross-entropy over a vocabulary whose logits never exist whole: the head's rows pass by once, some at a time.

Of each word the sum over all words of exp(logit), and of exp(logit) times the word's row, are kept relative to the
largest logit so far; so the gradient by the states is known when the last row has passed. Only where the head itself
learns, its rows pass a second time. T states of D columns, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import log

import torch

from pintpot.kernels.torch.room import copied, room

Rows = Callable[[], Iterable[tuple[int, torch.Tensor]]]
"""Gives (first row, rows [n, D]) of the head in order, each time it is called."""


@dataclass(frozen=True)
class Loss:
    """`losses` [T] in nats of each word, and `grads` [T, D] of their sum by the states."""

    losses: torch.Tensor
    grads: torch.Tensor | None
    log_z: torch.Tensor


def cross_entropy(states: torch.Tensor, targets: torch.Tensor, head: Rows, backward: bool = True) -> Loss:
    """Losses of the words `targets` [T] after `states` [T, D] in float32, and their gradients where `backward`."""
    peak = torch.full((len(states),), -torch.inf)
    mass = torch.zeros(len(states))
    own = torch.zeros(len(states))
    pulled = torch.zeros_like(states) if backward else None
    grown = torch.zeros_like(states) if backward else None
    for first, rows in head():
        logits = _logits(states, rows)
        here = ((targets >= first) & (targets < first + len(rows))).nonzero().flatten()
        own[here] = logits[here, targets[here] - first]
        new = torch.maximum(peak, logits.amax(dim=1))
        shrunk = torch.exp(peak - new)
        logits.sub_(new[:, None]).exp_()
        mass.mul_(shrunk).add_(logits.sum(dim=1))
        peak = new
        if pulled is not None and grown is not None:
            grown.mul_(shrunk[:, None]).add_((copied(logits, rows.dtype) @ rows).float())
            pulled[here] = rows[targets[here] - first].float()
    log_z = peak + mass.log()
    grads = None if pulled is None or grown is None else grown.div_(mass[:, None]).sub_(pulled)
    return Loss(log_z - own, grads, log_z)


def head_grad(
    states: torch.Tensor, targets: torch.Tensor, first: int, rows: torch.Tensor, log_z: torch.Tensor, scale: float
) -> torch.Tensor:
    """Gradients [n, D] of `scale` times the sum of the losses by the head's rows [n, D] from `first` on."""
    shares = _logits(states, rows)
    shares.sub_((log_z - log(scale))[:, None]).exp_()
    here = ((targets >= first) & (targets < first + len(rows))).nonzero().flatten()
    shares[here, targets[here] - first] -= scale
    found = room(tuple(rows.shape), rows.dtype)
    torch.mm(copied(shares, rows.dtype).T, states.to(rows.dtype), out=found)
    return copied(found, torch.float32)


def _logits(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Float32 [T, n]."""
    met = room((len(states), len(rows)), rows.dtype)
    return copied(torch.mm(states.to(rows.dtype), rows.T, out=met), torch.float32)
