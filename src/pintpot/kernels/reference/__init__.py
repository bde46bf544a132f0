"""The reference backend: every op in numpy, in float64 or float32, plain enough to be read as the definition.

`run(program, memory, call)` replays ops over named arrays. Each file of this folder is one op:
`run(op, program, memory, call)`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.program.spec import Program

Memory = dict[str, Any]
"""Arrays by buffer name: weights and activations in floating point, caches [pages, KV, page tokens, hd].

A weight may also be an iterable of (first row, rows [n, K]) pairs, for one that is never in memory whole.
"""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. `temperature` 0 takes the largest logit."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Call:
    """True lengths and contents of one replay.

    `tokens`, `positions` and `sequences` have one entry for each token; `rows` lists the tokens with logits;
    `page_tables[s][i]` is the page of positions i * page_tokens and on of sequence s. `uniform` gives, for each row,
    the number in [0, 1) that a random draw uses, `history` the tokens already seen by each sequence. `bias` is what is
    added to the logits of some tokens of each sequence, and `allowed` [V] which of its tokens may come (None: all). A
    token ~i takes row i of those given to the embedding; `turns` are the positions by which tokens turn where they are
    not their own.
    """

    tokens: NDArray[Any]
    positions: NDArray[Any]
    sequences: NDArray[Any]
    rows: tuple[int, ...]
    page_tables: tuple[tuple[int, ...], ...]
    sampling: tuple[Sampling, ...] = (Sampling(),)
    uniform: tuple[float, ...] = (0.0,)
    history: tuple[tuple[int, ...], ...] = field(default=((),))
    bias: tuple[tuple[tuple[int, float], ...], ...] = ()
    allowed: tuple[NDArray[Any] | None, ...] = ()
    turns: NDArray[Any] | None = None

    def wished(self, logits: NDArray[Any], sequence: int) -> NDArray[Any]:
        """Logits [V] of a sequence as others want them: with its bias, and -inf where a token may not come."""
        values = np.array(logits, np.float64)
        for token, value in self.bias[sequence] if self.bias else ():
            values[token] += value
        allowed = self.allowed[sequence] if self.allowed else None
        return values if allowed is None else np.where(allowed, values, -np.inf)


def run(program: Program, memory: Memory, call: Call, first: int = 0, stop: int | None = None) -> None:
    """Replay ops [first, stop) of a program over `memory`, which gains every buffer that they write."""
    for op in program.ops[first:stop]:
        if op.lane == "compute":
            importlib.import_module(f"{__name__}.{op.kind}").run(op, program, memory, call)


def names(pairs: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """Buffer by role, for roles that come once."""
    return dict(pairs)
