"""Ops of a decoder in PyTorch, so that its autograd can go back through them; `kernels.reference` defines each.

Weights meet rows in their own dtype, and what they give stays in it until it is added to the stream of states, which is
float32, as norms, turns and attention are. Of a weight that has an adapter (`NAME.lora_a` [r, K], `NAME.lora_b` [N, r]
in the memory) the product with both is added, `scale` times as large; of several adapters a mean (`adapters`). What
several weights give is not put side by side: it lies in the memory as `OUT.0`, `OUT.1` ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch.nn import functional

from pintpot.errors import UnsupportedModel, need
from pintpot.kernels.torch.adapters import added
from pintpot.program.spec import Op

Memory = dict[str, torch.Tensor]
FLOATS = ".floats"
BALANCE = ".balance"
"""Behind what an op gives: a scalar that is wanted small, beside the loss."""
MOST_PARTS = 3
GELU_SLOPE = 2 * sqrt(2 / pi)


@dataclass(frozen=True)
class Batch:
    """Sequences that go through a block together: B of S tokens, which lie one after the other in rows.

    `positions` [B, S] of the tokens within their examples; `starts` [B, S] where in the sequence each example begins,
    None where each sequence is one example. `scale` is that of the adapters. `tasks` [B S] are those of the rows, None
    where there is one.
    """

    num_sequences: int
    positions: torch.Tensor
    starts: torch.Tensor | None
    scale: float
    tasks: torch.Tensor | None = None


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
    rows, names = prologue(op, memory), op.read_all("weight")
    near = rows.to(memory[names[0]].dtype)
    made = []
    for name, bias in zip(names, op.read_all("bias") or (None,) * len(names), strict=True):
        out, own = functional.linear(near, memory[name]), name.removesuffix(FLOATS)
        more = added(own, rows.float(), memory, batch.tasks)
        out = out if more is None else out + (more * batch.scale).to(out.dtype)
        made.append(out if bias is None else out + memory[bias].to(out.dtype))
    after, residual = op.read("post_norm"), op.read("residual")
    if after is None and residual is None:
        return tuple(made)
    whole = made[0] if len(made) == 1 else torch.cat(made, dim=-1)
    whole = whole if after is None else rms_norm(whole, memory[after], op.get("eps"))
    return (whole if residual is None else whole + memory[residual],)


def prologue(op: Op, memory: Memory) -> torch.Tensor:
    """The rows that meet the weights of a linear op."""
    found, kind = parts(memory, str(op.read("x"))), op.get("prologue", "none")
    if kind == "rmsnorm":
        return rms_norm(found[0], memory[str(op.read("norm"))], op.get("eps"))
    if kind == "none":
        return found[0]
    gate, up = found
    return functional.silu(gate) * up if kind == "swiglu" else functional.gelu(gate, approximate="tanh") * up


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


def attend(op: Op, memory: Memory, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Causal attention inside each example: q [T, H hd], k and v [T, KV hd] -> [T, H hd]."""
    heads, kv_heads, head_dim = op.get("heads"), op.get("kv_heads"), op.get("head_dim")
    found = parts(memory, str(op.read("qkv")))
    q, k, v = (one.view(batch.num_sequences, -1, one.shape[-1] // head_dim, head_dim) for one in found)
    names = op.read("q_norm"), op.read("k_norm")
    q, k = (
        one if name is None else rms_norm(one, memory[name], op.get("eps"))
        for one, name in zip((q, k), names, strict=True)
    )
    angles = memory[str(op.read("rope"))][batch.positions]
    q, k = (rotate(one, angles, op.get("rope", "half")) for one in (q, k))
    # In bfloat16 the way back is several times as slow where attention is sharp, and less exact.
    q, k, v = (one.transpose(1, 2).float() for one in (q, k, v))
    k, v = (one.repeat_interleave(heads // kv_heads, dim=1) for one in (k, v))
    mask = hidden(batch, op.get("window", 0))
    out = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=op.get("scale"))
    return (out.transpose(1, 2).reshape(-1, heads * head_dim),)


def hidden(batch: Batch, window: int) -> torch.Tensor | None:
    """What is added to scores [B, 1, S, S] so that nobody sees a later token, another example, or beyond the window.

    None where plain causal attention says the same.
    """
    length = batch.positions.shape[1]
    if batch.starts is None and (not window or window >= length):
        return None
    at = torch.arange(length)
    seen = at[None, :] <= at[:, None]
    if window:
        seen = seen & (at[None, :] > at[:, None] - window)
    if batch.starts is not None:
        seen = seen & (at >= batch.starts[:, :, None])
    mask = torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))
    return mask.view(-1, 1, length, length)


def rotate(x: torch.Tensor, angles: torch.Tensor, layout: str) -> torch.Tensor:
    """Rotate pairs of x [B, S, heads, hd] by angles [B, S, rope_dim]; "half" pairs column i with i + dim/2."""
    half = angles.shape[-1] // 2
    cos, sin = angles[:, :, None, :half], angles[:, :, None, half:]
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if layout == "half":
        one, two = turned[..., :half], turned[..., half:]
        return torch.cat((one * cos - two * sin, two * cos + one * sin, rest), dim=-1)
    one, two = turned[..., 0::2], turned[..., 1::2]
    both = torch.stack((one * cos - two * sin, two * cos + one * sin), dim=-1)
    return torch.cat((both.flatten(-2), rest), dim=-1)


def mixture(op: Op, memory: Memory, batch: Batch) -> tuple[torch.Tensor, ...]:
    """As `pintpot.kernels.torch.mixture` has it."""
    from pintpot.kernels.torch.mixture import mixture as run_mixture

    return run_mixture(op, memory, batch)


RUNS: Mapping[str, Run] = {"linear": linear, "attend": attend, "mixture": mixture}
