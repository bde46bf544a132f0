"""Products of each token with the experts that were chosen for it: only their rows of a weight are read.

A weight [E * N, K] holds the rows of expert e from row e * N on; of several the outputs lie side by side. Tokens and
experts make T * k pairs, which lie expert by expert, the tokens of each in order, and have one row each. An op either
spreads, x [T, K] -> out [T * k, N] (a buffer [T, k * N]), or gathers, where its `gathers` is true:

    x [T * k, K] -> products [T * k, N], out[t] = residual[t] + sum over j of shares[t, j] * that of (t, chosen[t, j])

The prologue and the rounding of activations are those of `linear`. What is read depends on the data: of one token `k`
experts, of n tokens between k and min(E, n k), each once; n tokens that choose evenly meet E (1 - (1 - k / E)^n).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pintpot.errors import UsageError, need
from pintpot.formats import encoding
from pintpot.program.demand import Demand, Work
from pintpot.program.ops.linear import FEW_ROWS, FLOAT_FORMATS, PLANES, PROLOGUES, gated, over_rows, suffix
from pintpot.program.spec import Extent, Op, Program


class Met(NamedTuple):
    """How many experts some tokens meet: at least, if they choose evenly, and at most."""

    least: float
    mid: float
    most: float


def met(num_experts: int, num_chosen: int, tokens: int) -> Met:
    """The experts that so many tokens meet together."""
    if tokens == 0:
        return Met(0.0, 0.0, 0.0)
    evenly = num_experts * (1 - (1 - num_chosen / num_experts) ** tokens)
    return Met(float(num_chosen), evenly, float(min(num_experts, tokens * num_chosen)))


def check(op: Op, program: Program) -> None:
    names, x, out, chosen = op.read_all("weight"), op.read("x"), op.write("out"), op.read("chosen")
    there = bool(names) and x is not None and out is not None and chosen is not None
    need(there, "experts reads x, weights and chosen, and writes out", UsageError)
    count, kept, gathers = op.get("experts", 0), program.shape(str(chosen))[-1], gathers_of(op)
    need(op.get("prologue", "none") in PROLOGUES, f"no prologue {op.get('prologue')!r}", UsageError)
    need(op.get("activation", "float32") in PLANES, f"no activation {op.get('activation')!r}", UsageError)
    pairs = (op.read("shares") is not None, op.write("products") is not None)
    need(pairs == (gathers, gathers), "experts that gather have shares and products, others none", UsageError)
    normed = op.get("prologue") == "rmsnorm"
    need(normed == (op.read("norm") is not None), "rmsnorm and its weight come together", UsageError)
    width = program.shape(str(x))[-1] // (kept if gathers else 1) // (2 if gated(op) else 1)
    total = 0
    for rows, columns in map(program.shape, names):
        need(count > 0 and rows % count == 0, f"experts: {rows} rows are not of {count} experts", UsageError)
        need(columns == width, f"experts: a weight of {columns} columns meets an input of {width}", UsageError)
        total += rows // count
    apart = [name for name in names if encoding(program.by_name[name].format).num_apart]
    need(not apart, f"experts: columns of {', '.join(apart)} are kept apart", UsageError)
    products = program.shape(str(op.write("products") if gathers else out))[-1]
    need(products == kept * total, f"experts give {kept * total} columns a token, not {products}", UsageError)
    need(not gathers or program.shape(str(out))[-1] == total, f"experts gather {total} columns", UsageError)


def gathers_of(op: Op) -> bool:
    return bool(op.get("gathers", False))


def num_chosen(op: Op, program: Program) -> int:
    """Experts that a token meets."""
    return program.shape(str(op.read("chosen")))[-1]


def depends(op: Op, program: Program, extent: Extent) -> int:
    return extent.rows if over_rows(op, program) else extent.tokens


def demand(op: Op, program: Program, extent: Extent) -> Demand:
    tokens = depends(op, program, extent)
    if tokens == 0:
        return Demand()
    count, kept = op.get("experts"), num_chosen(op, program)
    found, pairs = met(count, kept, tokens), tokens * kept
    planes, rows_each = PLANES[op.get("activation", "float32")], max(1, round(pairs / found.mid))
    kind = "matvec" if rows_each == 1 else "matmul"
    products, weight_bytes = [], 0.0
    for name in op.read_all("weight"):
        form, (rows, columns) = encoding(program.by_name[name].format), program.shape(name)
        key = f"{kind}/{form.grid}{suffix(form.grid, planes)}"
        products.append(Work(key, float(pairs) * (rows // count) * columns, rows_each))
        weight_bytes += form.packed_bytes(rows // count, columns)
    streams = [name for _, name in (*op.reads, *op.writes) if program.by_name[name].life == "step"]
    others = sum(4.0 * tokens * program.shape(name)[-1] for name in streams)
    return Demand(
        (*_before(op, program, tokens, pairs), *products, *_after(op, program, tokens, pairs)),
        multiply_adds=sum(work.amount for work in products),
        ram_bytes=found.mid * weight_bytes + others,
        phases=1 if tokens <= FEW_ROWS else 2 + gathers_of(op),
        less_bytes=(found.mid - found.least) * weight_bytes,
        more_bytes=(found.most - found.mid) * weight_bytes,
    )


def _before(op: Op, program: Program, tokens: int, pairs: int) -> Iterator[Work]:
    """The prologue and the rounding of the row of every pair."""
    formats = {program.by_name[name].format for name in op.read_all("weight")}
    values = float(pairs) * program.shape(op.read_all("weight")[0])[1]
    size = 1 if tokens <= FEW_ROWS else pairs
    if op.get("prologue", "none") != "none":
        yield Work(f"prologue/{op.get('prologue')}", values, size)
    if PLANES[op.get("activation", "float32")] and not formats <= set(FLOAT_FORMATS):
        yield Work(f"prologue/{op.get('activation')}", values, size)


def _after(op: Op, program: Program, tokens: int, pairs: int) -> Iterator[Work]:
    """The sums of many tokens' products."""
    if gathers_of(op) and tokens > FEW_ROWS:
        yield Work("read", 4.0 * pairs * program.shape(str(op.write("out")))[-1])
