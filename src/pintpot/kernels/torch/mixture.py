"""A feed-forward network that is several: experts share its weights, have adapters, and each token meets a few of them.

MixLoRA (Li et al. 2024, arXiv:2404.15159). The products with the shared weights are computed once for every token;
that with the last of them once for the sum of what a token's experts give it, each times its share.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from pintpot.kernels.torch.adapters import LORA_A, LORA_B, ROUTER
from pintpot.kernels.torch.differentiable import BALANCE, FLOATS, Batch, Memory, rms_norm
from pintpot.program.spec import Op


def mixture(op: Op, memory: Memory, batch: Batch) -> tuple[torch.Tensor, ...]:
    """residual + post_norm(sum over a token's experts e of share_e down_e(act(gate_e(n)) * up_e(n))), n the norm of x.

    Leaves in the memory how unevenly the experts were chosen, as `OUT.balance`, a scalar for each batch.
    """
    normed = rms_norm(memory[str(op.read("x"))], memory[str(op.read("norm"))], op.get("eps"))
    names = op.read_all("weight")
    gate, up, down = (name.removesuffix(FLOATS) for name in names)
    near = normed.to(memory[names[0]].dtype)
    gated, raised = (functional.linear(near, memory[name]).float() for name in names[:2])
    chances = functional.linear(normed, memory[gate + ROUTER]).softmax(dim=-1)
    best, chosen = chances.topk(op.get("chosen"), dim=-1)
    share = best / best.sum(dim=-1, keepdim=True)
    inner = [torch.einsum("tk,erk->etr", normed, memory[name + LORA_A]) * batch.scale for name in (gate, up)]
    given, low = torch.zeros_like(gated), normed.new_zeros(len(normed), memory[down + LORA_B].shape[1])
    act = _silu if op.get("prologue") == "swiglu" else _gelu
    for expert in range(chances.shape[1]):
        own, place = (chosen == expert).nonzero(as_tuple=True)
        if not len(own):
            continue
        parts = (inner[0][expert, own], inner[1][expert, own])
        sides = (
            functional.linear(part, memory[name + LORA_B][expert]) for part, name in zip(parts, (gate, up), strict=True)
        )
        one, other = sides
        met = act(gated[own] + one) * (raised[own] + other) * share[own, place, None]
        given = given.index_add(0, own, met)
        narrow = functional.linear(met, memory[down + LORA_A][expert]) * batch.scale
        low = low.index_add(0, own, functional.linear(narrow, memory[down + LORA_B][expert]))
    memory[str(op.write("out")) + BALANCE] = op.get("balance") * uneven(chances, chosen, batch.num_sequences)
    out = functional.linear(given.to(near.dtype), memory[names[2]]) + low.to(near.dtype)
    after, residual = op.read("post_norm"), memory[str(op.read("residual"))]
    return ((out if after is None else rms_norm(out, memory[after], op.get("eps"))) + residual,)


def uneven(chances: torch.Tensor, chosen: torch.Tensor, num_sequences: int) -> torch.Tensor:
    """E sum over experts of (share of a sequence's choices) x (mean probability there), the mean over sequences.

    1 where all are chosen alike, E where it is always the same. `chances` [T, E], `chosen` [T, k] of S sequences.
    """
    count = chances.shape[1]
    told = functional.one_hot(chosen, count).float().sum(dim=1) / chosen.shape[1]
    used, likely = (one.view(num_sequences, -1, count).mean(dim=1) for one in (told, chances))
    return count * (used * likely).sum(dim=1).mean()


def _silu(x: torch.Tensor) -> torch.Tensor:
    return functional.silu(x)


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")
