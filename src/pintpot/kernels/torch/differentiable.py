"""Ops of a decoder in PyTorch, so that its autograd can go back through them; `kernels.reference` defines each.

Weights meet rows in their own dtype, and what they give stays in it until it is added to the stream of states, which is
float32, as norms and turns are. Of a weight that has an adapter (`NAME.lora_a` [r, K], `NAME.lora_b` [N, r]
in the memory) the product with both is added, `scale` times as large; of several adapters a mean (`adapters`). What
several weights give is not put side by side: it lies in the memory as `OUT.0`, `OUT.1` ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from pintpot.errors import UnsupportedModel, need
from pintpot.kernels.torch.adapters import added, alone
from pintpot.kernels.torch.attention import attention
from pintpot.kernels.torch.heads import Heads
from pintpot.kernels.torch.products import Beside, products
from pintpot.kernels.torch.rows import Remake, gated, gated_again, joined, normed, normed_again
from pintpot.program.spec import Op

Memory = dict[str, torch.Tensor]
FLOATS = ".floats"
BALANCE = ".balance"
"""Behind what an op gives: a scalar that is wanted small, beside the loss."""
MOST_PARTS = 3


@dataclass(frozen=True)
class Batch:
    """Sequences that go through a block together: B of S tokens, which lie one after the other in rows.

    `positions` [B, S] of the tokens within their examples; `starts` [B, S] where in the sequence each example begins,
    None where each sequence is one example. `scale` is that of the adapters. `tasks` [B S] are those of the rows, None
    where there is one. In `lent` lie the weights of the block, forward and when it is gone back through.
    """

    num_sequences: int
    positions: torch.Tensor
    starts: torch.Tensor | None
    scale: float
    tasks: torch.Tensor | None = None
    lent: Memory = field(default_factory=dict)


Run = Callable[[Op, Memory, Batch], tuple[torch.Tensor, ...]]


def run(op: Op, memory: Memory, batch: Batch) -> None:
    """One op over a memory that has what it reads, and gains what it writes. Raises UnsupportedModel for others."""
    kind = str(op.get("of", op.kind))
    need(kind in RUNS, f"training knows no {kind!r} inside a block", UnsupportedModel)
    out, made = str(op.write("out")), RUNS[kind](op, memory, batch)
    if len(made) == 1:
        memory[out] = made[0]
    else:
        memory.update({f"{out}.{index}": part for index, part in enumerate(made)})


def parts(memory: Memory, name: str) -> tuple[torch.Tensor, ...]:
    """What lies in a buffer: one tensor, or those that lie side by side."""
    if name in memory:
        return (memory[name],)
    return tuple(memory[f"{name}.{index}"] for index in range(MOST_PARTS) if f"{name}.{index}" in memory)


def forget(memory: Memory, name: str) -> None:
    """Let go of what lies in a buffer."""
    for key in (name, *(f"{name}.{index}" for index in range(MOST_PARTS))):
        memory.pop(key, None)


def linear(op: Op, memory: Memory, batch: Batch) -> tuple[torch.Tensor, ...]:
    """residual + post_norm(bias + W prologue(x)) of each weight, adapters included: [T, N] each."""
    names = op.read_all("weight")
    rows, remake = prologue(op, memory, memory[names[0]].dtype)
    own = [name.removesuffix(FLOATS) for name in names]
    beside = Beside(batch.lent, names, batch.scale, remake, op.get("estimated", False))
    learns = [memory[name] if memory[name].requires_grad else None for name in names]
    made = products(rows, beside, learns, [alone(name, memory) for name in own])
    made = tuple(_more(out, name, rows, memory, batch) for out, name in zip(made, own, strict=True))
    biases = op.read_all("bias")
    if biases:
        made = tuple(out + memory[bias].to(out.dtype) for out, bias in zip(made, biases, strict=True))
    after, residual = op.read("post_norm"), op.read("residual")
    if after is None and residual is None:
        return made
    whole = made[0] if len(made) == 1 else torch.cat(made, dim=-1)
    whole = whole if after is None else rms_norm(whole, memory[after], op.get("eps"))
    return (whole if residual is None else joined(whole, memory[residual]),)


def _more(out: torch.Tensor, name: str, rows: torch.Tensor, memory: Memory, batch: Batch) -> torch.Tensor:
    """With what several adapters of a weight add."""
    more = None if alone(name, memory) else added(name, rows, memory, batch.tasks)
    return out if more is None else out + (more * batch.scale).to(out.dtype)


def prologue(op: Op, memory: Memory, dtype: torch.dtype) -> tuple[torch.Tensor, Remake | None]:
    """The rows that meet the weights of a linear op, in their dtype, and what makes them again."""
    found, kind = parts(memory, str(op.read("x"))), op.get("prologue", "none")
    if kind == "none":
        return found[0].to(dtype), None
    if kind == "rmsnorm":
        knobs = found[0], memory[str(op.read("norm"))], op.get("eps"), dtype
        return normed(*knobs), normed_again(*knobs)
    gate, up = (part.to(dtype) for part in found)
    return gated(gate, up, kind), gated_again(gate, up, kind)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32."""
    return normed(x, weight, eps, torch.float32)


def attend(op: Op, memory: Memory, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Causal attention inside each example: q [T, H hd], k and v [T, KV hd] -> [T, H hd]."""
    heads, head_dim = op.get("heads"), op.get("head_dim")
    found = parts(memory, str(op.read("qkv")))
    q, k, v = (one.view(batch.num_sequences, -1, one.shape[-1] // head_dim, head_dim) for one in found)
    names = op.read("q_norm"), op.read("k_norm")
    q, k = (
        one if name is None else normed(one, memory[name], op.get("eps"), one.dtype)
        for one, name in zip((q, k), names, strict=True)
    )
    angles = partial(_rows, memory[str(op.read("rope"))], batch.positions)
    how = Heads(
        heads,
        op.get("kv_heads"),
        op.get("scale"),
        angles,
        op.get("rope", "half"),
        partial(lowest, batch, op.get("window", 0)),
    )
    return (attention(q, k, v, how).view(-1, heads * head_dim),)


def _rows(table: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    return table[at]


def lowest(batch: Batch, window: int) -> torch.Tensor | None:
    """The first key that each query sees [B, S], int32: of its example and within the window; None where it is 0."""
    length = batch.positions.shape[1]
    if batch.starts is None and (not window or window >= length):
        return None
    first = torch.zeros(batch.positions.shape, dtype=torch.int32)
    if window:
        first += (torch.arange(length, dtype=torch.int32) - (window - 1)).clamp_(min=0)
    return first if batch.starts is None else torch.maximum(first, batch.starts.to(torch.int32))


def mixture(op: Op, memory: Memory, batch: Batch) -> tuple[torch.Tensor, ...]:
    """As `pintpot.kernels.torch.mixture` has it."""
    from pintpot.kernels.torch.mixture import mixture as run_mixture

    return run_mixture(op, memory, batch)


RUNS: Mapping[str, Run] = {"linear": linear, "attend": attend, "mixture": mixture}
