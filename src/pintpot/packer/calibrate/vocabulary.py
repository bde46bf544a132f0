"""The two ends of a network, some rows of the vocabulary at a time: labels drawn from its own distribution, and back.

Nothing is ever as large as tokens x vocabulary. T tokens, V words, D columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pintpot.meter.vocabulary import VocabularyStream
from pintpot.packer.calibrate.forward import Texts

Floats = NDArray[np.float32]
Rows = Iterable[tuple[int, Floats]]
"""(first row, rows [n, D]) of a matrix, in order."""


@dataclass(frozen=True)
class Drawn:
    """For each token its next word as the model itself draws it, and the logarithm of the sum over all words."""

    labels: NDArray[np.int64]
    log_z: Floats


def draw(states: Floats, head: Rows, rng: np.random.Generator) -> Drawn:
    """One label for each of the states [T, D] that meet the head.

    Of each run of words one is drawn and takes the place of the earlier ones with the run's share of all words so far.
    """
    peak = np.full(len(states), -np.inf, np.float32)
    mass, labels = np.zeros(len(states)), np.zeros(len(states), np.int64)
    for first, rows in head:
        logits = states @ rows.T
        new = np.maximum(peak, logits.max(axis=1))
        weights = np.exp(logits - new[:, None])
        own = weights.sum(axis=1, dtype=np.float64)
        mass = mass * np.exp(peak - new) + own
        peak = new
        taken = np.flatnonzero(rng.random(len(states)) * mass < own)
        sums = np.cumsum(weights[taken], axis=1, dtype=np.float64)
        aims = rng.random(len(taken))[:, None] * sums[:, -1:]
        labels[taken] = first + np.minimum((sums <= aims).sum(axis=1), len(rows) - 1)
    return Drawn(labels, (peak + np.log(mass)).astype(np.float32))


def residuals(states: Floats, drawn: Drawn, head: Rows) -> Iterator[tuple[int, Floats, Floats]]:
    """(first row, rows [n, D], gradients [T, n] of log p(label) by the logits of these words)."""
    for first, rows in head:
        part = states @ rows.T
        part -= drawn.log_z[:, None]
        np.exp(part, out=part)
        np.negative(part, out=part)
        here = np.flatnonzero((drawn.labels >= first) & (drawn.labels < first + len(rows)))
        part[here, drawn.labels[here] - first] += 1
        yield first, rows, part


def to_states(states: Floats, drawn: Drawn, head: Rows) -> Floats:
    """Gradients [T, D] of log p(label) by the states that meet the head."""
    grads = np.zeros_like(states)
    for _, rows, part in residuals(states, drawn, head):
        grads += part @ rows
    return grads


def following(text: NDArray[np.int64]) -> NDArray[np.int64]:
    """The word that comes after each token of a text [T]; -1 where it ends, or a picture goes on."""
    after = np.append(text[1:], -1)
    return np.where(after < 0, -1, after)


def loss_gradients(states: Floats, labels: NDArray[np.int64], head: Rows) -> tuple[Floats, Floats]:
    """Gradients of the sum of log p(label) by the states [T, D] that meet the head, and |gradients| by logits [T].

    Labels of -1 are none: nothing is asked of such a state. `head` is gone through twice.
    """
    asked = np.flatnonzero(labels >= 0)
    some, grads, sizes = states[asked], np.zeros_like(states), np.zeros(len(states), np.float32)
    log_z = np.full(len(some), -np.inf, np.float32)
    for _, rows in head:
        logits = some @ rows.T
        peak = logits.max(axis=1)
        log_z = np.logaddexp(log_z, peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1)))
    for _, rows, part in residuals(some, Drawn(labels[asked], log_z), head):
        grads[asked] += part @ rows
        sizes[asked] += np.abs(part).sum(axis=1)
    return grads, sizes


def add_looked_up(texts: Texts, grads: Floats, first: int, into: Floats) -> Iterator[Floats]:
    """For each text the gradient [n, D] of rows [first, first + n) of the embedding; `into` is used again for each."""
    at = 0
    for text in texts:
        tokens, own = np.asarray(text), grads[at : at + len(text)]
        here = (tokens >= first) & (tokens < first + len(into))
        into[:] = 0
        np.add.at(into, tokens[here] - first, own[here])
        at += len(text)
        yield into


def divergence(reference: Floats, head: Rows, test: Floats, test_head: Rows) -> float:
    """Mean KL divergence in nats a token of the distributions that states [T, D] have; both heads in equal runs."""
    stream = VocabularyStream(len(reference))
    for (first, rows), (_, other) in zip(head, test_head, strict=True):
        stream.add(first, reference @ rows.T, test @ other.T)
    return float(stream.scores().kl.mean())
