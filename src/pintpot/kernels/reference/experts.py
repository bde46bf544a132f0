"""Products of tokens with the experts chosen for them; the rows of a weight are taken expert by expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.kernels.reference import Call, Memory
from pintpot.kernels.reference.linear import prologue_of, round_rows
from pintpot.program.ops.experts import gathers_of
from pintpot.program.ops.linear import FLOAT_FORMATS, PLANES
from pintpot.program.spec import Op, Program

Rows = NDArray[Any]
Meets = Callable[[str, Rows, NDArray[np.int64]], Rows]
"""What of rows [n, K] of the tokens [n] meets the weight of a name."""


def run(op: Op, program: Program, memory: Memory, call: Call) -> None:
    planes = PLANES[op.get("activation", "float32")]

    def meets(name: str, rows: Rows, tokens: NDArray[np.int64]) -> Rows:
        rounded = planes > 0 and program.by_name[name].format not in FLOAT_FORMATS
        return round_rows(rows, planes) if rounded else rows

    experts(op, memory, meets)


def experts(op: Op, memory: Memory, meets: Meets) -> None:
    """The op over `memory`, whose weights are arrays, or give rows by `part(first, stop)`."""
    chosen = memory[str(op.read("chosen"))]
    num_tokens, kept = chosen.shape
    x, gathers = memory[str(op.read("x"))], gathers_of(op)
    flat = x.reshape(num_tokens * kept, -1) if gathers else x
    rows = prologue_of(op, flat, memory)
    parts = []
    for number, place, tokens in groups(chosen):
        met = rows[place : place + len(tokens)] if gathers else rows[tokens]
        names = op.read_all("weight")
        parts.append(
            np.concatenate(
                [meets(n, met, tokens) @ of_expert(memory[n], number, op.get("experts")).T for n in names], axis=-1
            )
        )
    products = np.concatenate(parts) if parts else np.zeros((0, 1), x.dtype)
    name = str(op.write("products") if gathers else op.write("out"))
    memory[name] = products.reshape(num_tokens, -1)
    if gathers:
        memory[str(op.write("out"))] = gathered(op, memory, products)


def gathered(op: Op, memory: Memory, products: Rows) -> Rows:
    """out [T, N] of the products [T * k, N]."""
    chosen, shares = memory[str(op.read("chosen"))], memory[str(op.read("shares"))]
    at, residual = places(chosen), op.read("residual")
    out = 0 if residual is None else memory[residual]
    for index in range(chosen.shape[1]):
        out = out + shares[:, index, None] * products[at[:, index]]
    return np.asarray(out)


def groups(chosen: NDArray[np.int32]) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Of each expert that a token of chosen [T, k] meets its number, the place of its first pair, and its tokens."""
    order = np.argsort(chosen.reshape(-1), kind="stable")
    numbers, first = np.unique(chosen.reshape(-1)[order], return_index=True)
    for number, place, tokens in zip(numbers, first, np.split(order // chosen.shape[1], first[1:]), strict=True):
        yield int(number), int(place), tokens


def places(chosen: NDArray[np.int32]) -> NDArray[np.int64]:
    """Where the pair of each token and choice [T, k] lies."""
    order = np.argsort(chosen.reshape(-1), kind="stable")
    found = np.empty_like(order)
    found[order] = np.arange(len(order))
    return found.reshape(chosen.shape)


def of_expert(weight: Any, number: int, count: int) -> Rows:
    """The rows [N, K] of one of `count` experts."""
    each = weight.shape[0] // count
    part = weight[number * each : (number + 1) * each] if isinstance(weight, np.ndarray) else None
    return np.asarray(weight.part(number * each, (number + 1) * each) if part is None else part)
