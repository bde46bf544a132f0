"""Ops of a decoder in PyTorch, so that its autograd can go back through them; `kernels.reference` defines each.

Weights meet rows in their own dtype: what is not a product is computed in float32. Of a weight that has an adapter
(`NAME.lora_a` [r, K], `NAME.lora_b` [N, r] in the memory) the product with both is added, `scale` times as large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch.nn import functional

from pintpot.errors import UnsupportedModel, need
from pintpot.program.spec import Op

Memory = dict[str, torch.Tensor]
LORA_A, LORA_B, FLOATS = ".lora_a", ".lora_b", ".floats"
GELU_SLOPE = 2 * sqrt(2 / pi)


@dataclass(frozen=True)
class Batch:
    """Sequences that go through a block together: B of S tokens, which lie one after the other in rows.

    `positions` [B, S] of the tokens within their examples; `starts` [B, S] where in the sequence each example begins,
    None where each sequence is one example. `scale` is that of the adapters.
    """

    num_sequences: int
    positions: torch.Tensor
    starts: torch.Tensor | None
    scale: float


Run = Callable[[Op, Memory, Batch], torch.Tensor]


def run(op: Op, memory: Memory, batch: Batch) -> None:
    """One op over a memory that has what it reads, and gains what it writes. Raises UnsupportedModel for others."""
    kind = str(op.get("of", op.kind))
    need(kind in RUNS, f"training knows no {kind!r} inside a block", UnsupportedModel)
    memory[str(op.write("out"))] = RUNS[kind](op, memory, batch)


def linear(op: Op, memory: Memory, batch: Batch) -> torch.Tensor:
    """out = residual + post_norm(bias + W prologue(x)), adapters included: [T, sum N]."""
    rows = prologue(op, memory)
    biases = op.read_all("bias") or (None,) * len(op.read_all("weight"))
    parts = []
    for name, bias in zip(op.read_all("weight"), biases, strict=True):
        out = product(rows, memory[name])
        own = name.removesuffix(FLOATS)
        if own + LORA_A in memory:
            inner = functional.linear(rows, memory[own + LORA_A])
            out = out + functional.linear(inner, memory[own + LORA_B]) * batch.scale
        parts.append(out if bias is None else out + memory[bias])
    made = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    after, residual = op.read("post_norm"), op.read("residual")
    made = made if after is None else rms_norm(made, memory[after], op.get("eps"))
    return made if residual is None else made + memory[residual]


def product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """rows [T, K] times weight [N, K] transposed, in the weight's dtype; the result is float32."""
    return functional.linear(rows.to(weight.dtype), weight).float()


def prologue(op: Op, memory: Memory) -> torch.Tensor:
    """The rows that meet the weights of a linear op."""
    x, kind = memory[str(op.read("x"))], op.get("prologue", "none")
    if kind == "rmsnorm":
        return rms_norm(x, memory[str(op.read("norm"))], op.get("eps"))
    if kind == "none":
        return x
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up if kind == "swiglu" else functional.gelu(gate, approximate="tanh") * up


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


def attend(op: Op, memory: Memory, batch: Batch) -> torch.Tensor:
    """Causal attention inside each example: qkv [T, (H + 2 KV) hd] -> [T, H hd]."""
    heads, kv_heads, head_dim = op.get("heads"), op.get("kv_heads"), op.get("head_dim")
    qkv = memory[str(op.read("qkv"))].view(batch.num_sequences, -1, heads + 2 * kv_heads, head_dim)
    q, k, v = torch.split(qkv, [heads, kv_heads, kv_heads], dim=2)
    names = op.read("q_norm"), op.read("k_norm")
    q, k = (
        one if name is None else rms_norm(one, memory[name], op.get("eps"))
        for one, name in zip((q, k), names, strict=True)
    )
    angles = memory[str(op.read("rope"))][batch.positions]
    q, k = (rotate(one, angles, op.get("rope", "half")) for one in (q, k))
    dtype = memory[COMPUTED_IN].dtype
    q, k, v = (one.transpose(1, 2).to(dtype) for one in (q, k, v))
    k, v = (one.repeat_interleave(heads // kv_heads, dim=1) for one in (k, v))
    mask = hidden(batch, op.get("window", 0), dtype)
    out = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=op.get("scale"))
    return out.transpose(1, 2).reshape(-1, heads * head_dim).float()


COMPUTED_IN = "computed in"
"""A tensor of the memory whose dtype attention computes in."""


def hidden(batch: Batch, window: int, dtype: torch.dtype) -> torch.Tensor | None:
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
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
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


RUNS: Mapping[str, Run] = {"linear": linear, "attend": attend}
