"""The next token from logits: repetition penalty, what others wish, temperature, top-k, top-p, min-p, then one draw."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.kernels.reference import Call, Memory, Sampling, names
from pintpot.program.spec import Op, Program


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    logits, writes = memory[names(op.reads)["logits"]], names(op.writes)
    drawn = []
    for row, values in enumerate(logits):
        sequence = int(call.sequences[call.rows[row]])
        how, past = call.sampling[sequence], call.history[sequence]
        drawn.append(draw(call.wished(penalized(values, how, past), sequence), how, call.uniform[row]))
    memory[writes["next"]] = np.array(drawn, np.int32)
    if "logprob" in writes:
        memory[writes["logprob"]] = np.array([logprob(*pair) for pair in zip(logits, drawn, strict=True)])


def draw(values: NDArray[Any], how: Sampling, uniform: float) -> int:
    """One token from logits [V] with all that was asked of them.

    The first, in the order of the vocabulary, whose share and those before it exceed `uniform`. Each cut keeps
    everything that is as likely as the last that it keeps.
    """
    if how.temperature == 0.0:
        return int(np.argmax(values))
    weights = np.exp((values - values.max()) / how.temperature)
    falling = np.sort(weights)[::-1]
    if how.top_k:
        falling = falling[falling >= falling[min(how.top_k, len(falling)) - 1]]
    least = falling[np.flatnonzero(np.cumsum(falling) - falling < how.top_p * falling.sum())[-1]]
    kept_tokens = np.flatnonzero(weights >= max(least, how.min_p))
    sums = np.cumsum(weights[kept_tokens])
    return int(kept_tokens[min(int(np.searchsorted(sums, uniform * sums[-1], side="right")), len(sums) - 1)])


def penalized(logits: NDArray[Any], how: Sampling, history: tuple[int, ...]) -> NDArray[Any]:
    """Logits in float64, those of earlier tokens made smaller, each once."""
    values = np.array(logits, np.float64)
    seen = np.unique(np.array(history, np.int64))
    if how.repetition_penalty != 1.0 and seen.size:
        kept = values[seen]
        values[seen] = np.where(kept > 0, kept / how.repetition_penalty, kept * how.repetition_penalty)
    return values


def logprob(logits: NDArray[Any], token: int) -> float:
    """Logarithm of a token's probability before penalty, temperature and cuts."""
    shifted = np.array(logits, np.float64) - np.max(logits)
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
