"""Which experts each token meets, and its shares of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.kernels.reference import Call, Memory
from pintpot.program.spec import Op, Program


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    kept = program.shape(str(op.write("chosen")))[-1]
    route(op, memory, kept)


def route(op: Op, memory: Memory, kept: int) -> None:
    """The same where nobody has the program: `kept` experts of each token."""
    scores = memory[str(op.read("scores"))]
    memory[str(op.write("chosen"))], memory[str(op.write("shares"))] = chosen(scores, kept, op.get("normed", True))


def chosen(scores: NDArray[Any], kept: int, normed: bool) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Experts [T, k] of the largest scores [T, E], and the shares [T, k] of each."""
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :kept]
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    found = np.take_along_axis(weights, order, axis=-1)
    whole = found if normed else weights
    return order.astype(np.int32), np.asarray(found / whole.sum(axis=-1, keepdims=True))
