"""The next token from logits: repetition penalty, temperature, top-k, top-p, min-p, then one draw."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.kernels.reference import Call, Memory, Sampling, names
from pintpot.program.spec import Op, Program


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    logits = memory[names(op.reads)["logits"]]
    drawn = []
    for row, values in enumerate(logits):
        sequence = int(call.sequences[call.rows[row]])
        drawn.append(draw(values, call.sampling[sequence], call.uniform[row], call.history[sequence]))
    memory[names(op.writes)["next"]] = np.array(drawn, np.int32)


def draw(logits: NDArray[Any], how: Sampling, uniform: float, history: tuple[int, ...]) -> int:
    """One token from logits [V]: candidates are sorted by falling logit, the lower index first where two are equal."""
    values = np.array(logits, np.float64)
    seen = np.unique(np.array(history, np.int64))
    if how.repetition_penalty != 1.0 and seen.size:
        kept = values[seen]
        values[seen] = np.where(kept > 0, kept / how.repetition_penalty, kept * how.repetition_penalty)
    if how.temperature == 0.0:
        return int(np.argmax(values))
    order = np.lexsort((np.arange(len(values)), -values))
    if how.top_k:
        order = order[: how.top_k]
    weights = np.exp((values[order] - values[order[0]]) / how.temperature)
    before = np.cumsum(weights) - weights
    kept_rows = (before < how.top_p * weights.sum()) & (weights >= how.min_p * weights[0])
    order, weights = order[kept_rows], weights[kept_rows]
    mark = np.searchsorted(np.cumsum(weights), uniform * weights.sum(), side="right")
    return int(order[min(int(mark), len(order) - 1)])
