"""Gradients of the products with chosen experts, and of the shares; the choice itself is taken as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.kernels.reference import Memory
from pintpot.kernels.reference.experts import groups, of_expert, places
from pintpot.kernels.reference.linear import prologue_of
from pintpot.packer.calibrate.backward_rows import before_rows
from pintpot.program.ops.experts import gathers_of
from pintpot.program.spec import Op

Floats = NDArray[Any]


def route(op: Op, memory: Memory, grads: Floats) -> tuple[str, Floats]:
    """Gradients [T, E] of the scores, from those [T, k] of the shares."""
    name = str(op.read("scores"))
    scores, shares = memory[name], memory[str(op.write("shares"))]
    chosen = memory[str(op.write("chosen"))]
    along = (grads * shares).sum(axis=-1, keepdims=True)
    if op.get("normed", True):
        found = np.zeros_like(scores)
    else:
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        found = -along * weights / weights.sum(axis=-1, keepdims=True)
        along = np.zeros_like(along)
    np.put_along_axis(found, chosen, np.take_along_axis(found, chosen, -1) + shares * (grads - along), -1)
    return name, found


def experts(
    op: Op, memory: Memory, out: Floats, seen: Callable[[str, Floats, Floats, int], None] | None = None
) -> list[tuple[str, Floats]]:
    """Gradients by buffer of what an experts op reads, from those of what it writes."""
    chosen, found = memory[str(op.read("chosen"))], list[tuple[str, Floats]]()
    num_tokens, kept = chosen.shape
    x, gathers = memory[str(op.read("x"))], gathers_of(op)
    flat = x.reshape(num_tokens * kept, -1) if gathers else x
    rows = prologue_of(op, flat, memory).astype(out.dtype, copy=False)
    if not gathers:
        products = out.reshape(num_tokens * kept, -1)
    else:
        products, to_shares = _of_products(op, memory, out)
        found.append((str(op.read("shares")), to_shares))
        if op.read("residual") is not None:
            found.append((str(op.read("residual")), out))
    grads = np.zeros_like(rows)
    for number, place, tokens in groups(chosen):
        pairs, first = slice(place, place + len(tokens)), 0
        here: Any = pairs if gathers else tokens
        for name in op.read_all("weight"):
            values = of_expert(memory[name], number, op.get("experts"))
            part = products[pairs, first : first + len(values)]
            first += len(values)
            grads[here] += part @ values
            if seen is not None:
                seen(
                    name,
                    _spread(rows[here], tokens, num_tokens),
                    _spread(part, tokens, num_tokens),
                    number * len(values),
                )
    found.append((str(op.read("x")), before_rows(op, flat, memory, grads).reshape(x.shape)))
    return found


def _of_products(op: Op, memory: Memory, out: Floats) -> tuple[Floats, Floats]:
    """Gradients of the products of all pairs, and of the shares [T, k], from those [T, N] of the sums."""
    chosen, shares = memory[str(op.read("chosen"))], memory[str(op.read("shares"))]
    values = memory[str(op.write("products"))].reshape(chosen.size, -1)
    at, products = places(chosen), np.empty_like(values)
    to_shares = np.empty_like(shares)
    for index in range(chosen.shape[1]):
        products[at[:, index]] = shares[:, index, None] * out
        to_shares[:, index] = np.einsum("tn,tn->t", values[at[:, index]], out)
    return products, to_shares


def _spread(rows: Floats, tokens: NDArray[np.int64], num_tokens: int) -> Floats:
    """Rows of some tokens among zeros for the others."""
    found = np.zeros((num_tokens, rows.shape[1]), rows.dtype)
    found[tokens] = rows
    return found
