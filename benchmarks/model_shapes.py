"""Published shapes of language models, the tensors that they have, and their configuration for both file formats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What config.json of the published model says."""

    name: str
    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    tied: bool
    context: int
    theta: float
    eps: float = 1e-5
    llama3_rope: bool = False
    experts: int = 0
    chosen: int = 0
    own_head_dim: int = 0

    @property
    def head_dim(self) -> int:
        return self.own_head_dim or self.hidden // self.heads

    @property
    def architecture(self) -> str:
        """What GGUF calls it."""
        return {"mixtral": "llama", "qwen3_moe": "qwen3moe"}.get(self.family, self.family)


@dataclass(frozen=True)
class Tensor:
    """One weight: its name in each file format and how it is drawn; norms are 1, `std` is for everything else.

    Those of experts have three axes, and hold gate and up side by side in a folder alone: "" where a file has it not.
    """

    hf_name: str
    gguf_name: str
    shape: tuple[int, ...]
    std: float

    @property
    def is_norm(self) -> bool:
        return "norm" in self.hf_name


# Mixtral's own vocabulary of 32,000 words has no room for the tokenizer that drawn models carry.
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", "llama", 256, 2, 4, 2, 512, 49_152, True, 512, 1e4),
        Shape("tiny-qwen2", "qwen2", 256, 2, 4, 2, 512, 50_000, True, 512, 1e6, 1e-6),
        Shape("smollm2-135m", "llama", 576, 30, 9, 3, 1536, 49_152, True, 8192, 1e5),
        Shape("qwen2.5-0.5b", "qwen2", 896, 24, 14, 2, 4864, 151_936, True, 32_768, 1e6, 1e-6),
        Shape("qwen2.5-1.5b", "qwen2", 1536, 28, 12, 2, 8960, 151_936, True, 131_072, 1e6, 1e-6),
        Shape("llama-3.1-8b", "llama", 4096, 32, 32, 8, 14_336, 128_256, False, 131_072, 5e5, llama3_rope=True),
        Shape("tiny-mixtral", "mixtral", 256, 2, 4, 2, 128, 49_152, True, 512, 1e6, experts=8, chosen=2),
        Shape("mixtral-8x7b", "mixtral", 4096, 32, 32, 8, 14_336, 49_152, False, 32_768, 1e6, experts=8, chosen=2),
        Shape(
            "qwen3-30b-a3b",
            "qwen3_moe",
            2048,
            48,
            32,
            4,
            768,
            151_936,
            False,
            40_960,
            1e6,
            1e-6,
            experts=128,
            chosen=8,
            own_head_dim=128,
        ),
        Shape("llama-3.1-70b", "llama", 8192, 80, 64, 8, 28_672, 128_256, False, 131_072, 5e5, llama3_rope=True),
    )
}
ALIASES = {
    "135m": "smollm2-135m",
    "0.5b": "qwen2.5-0.5b",
    "1.5b": "qwen2.5-1.5b",
    "8b": "llama-3.1-8b",
    "8x7b": "mixtral-8x7b",
    "30b-a3b": "qwen3-30b-a3b",
    "llama-16gb-bf16": "llama-3.1-8b",
    "70b": "llama-3.1-70b",
}
_LLAMA3_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def tensors(shape: Shape) -> Iterator[Tensor]:
    """Every weight in file order; those that write into the residual stream are drawn narrower, as GPT-2's were."""
    out_std = 0.02 / math.sqrt(2 * shape.layers)
    kv_rows, hidden = shape.kv_heads * shape.head_dim, shape.hidden
    yield Tensor("model.embed_tokens.weight", "token_embd.weight", (shape.vocab, hidden), 0.02)
    for layer in range(shape.layers):
        hf, gguf = f"model.layers.{layer}.", f"blk.{layer}."
        yield Tensor(f"{hf}input_layernorm.weight", f"{gguf}attn_norm.weight", (hidden,), 0)
        q_rows = shape.heads * shape.head_dim
        for role, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            yield Tensor(f"{hf}self_attn.{role}_proj.weight", f"{gguf}attn_{role}.weight", (rows, hidden), 0.02)
            if shape.family == "qwen2":
                yield Tensor(f"{hf}self_attn.{role}_proj.bias", f"{gguf}attn_{role}.bias", (rows,), 0.02)
        yield Tensor(f"{hf}self_attn.o_proj.weight", f"{gguf}attn_output.weight", (hidden, q_rows), out_std)
        if shape.family == "qwen3_moe":
            for role in ("q", "k"):
                yield Tensor(
                    f"{hf}self_attn.{role}_norm.weight", f"{gguf}attn_{role}_norm.weight", (shape.head_dim,), 0
                )
        yield Tensor(f"{hf}post_attention_layernorm.weight", f"{gguf}ffn_norm.weight", (hidden,), 0)
        if shape.experts:
            yield from _experts(shape, hf, gguf, out_std)
            continue
        for role in ("gate", "up"):
            yield Tensor(f"{hf}mlp.{role}_proj.weight", f"{gguf}ffn_{role}.weight", (shape.ffn, hidden), 0.02)
        yield Tensor(f"{hf}mlp.down_proj.weight", f"{gguf}ffn_down.weight", (hidden, shape.ffn), out_std)
    yield Tensor("model.norm.weight", "output_norm.weight", (hidden,), 0)
    if not shape.tied:
        yield Tensor("lm_head.weight", "output.weight", (shape.vocab, hidden), 0.02)


def _experts(shape: Shape, hf: str, gguf: str, out_std: float) -> Iterator[Tensor]:
    count, hidden, ffn = shape.experts, shape.hidden, shape.ffn
    yield Tensor(f"{hf}mlp.gate.weight", f"{gguf}ffn_gate_inp.weight", (count, hidden), 0.02)
    for role in ("gate", "up"):
        yield Tensor("", f"{gguf}ffn_{role}_exps.weight", (count, ffn, hidden), 0.02)
    yield Tensor(f"{hf}mlp.experts.gate_up_proj", "", (count, 2 * ffn, hidden), 0.02)
    yield Tensor(f"{hf}mlp.experts.down_proj", f"{gguf}ffn_down_exps.weight", (count, hidden, ffn), out_std)


def _classes(family: str) -> str:
    names = {"llama": "Llama", "qwen2": "Qwen2", "mixtral": "Mixtral", "qwen3_moe": "Qwen3Moe"}
    return f"{names[family]}ForCausalLM"


def hf_config(shape: Shape, dtype: str) -> dict[str, Any]:
    """config.json; the ids are those of SmolLM2's tokenizer, which the drawn models carry."""
    config: dict[str, Any] = {
        "architectures": [_classes(shape.family)],
        "model_type": shape.family,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    if shape.experts:
        config |= {"num_experts_per_tok": shape.chosen, "num_local_experts": shape.experts, "head_dim": shape.head_dim}
    if shape.family == "qwen3_moe":
        config |= {"num_experts": shape.experts, "moe_intermediate_size": shape.ffn, "norm_topk_prob": True}
    if shape.llama3_rope:
        config["rope_scaling"] = {"rope_type": "llama3", **_LLAMA3_ROPE}
    return config


def gguf_metadata(shape: Shape) -> dict[str, int | float | str]:
    """The architecture's own keys of a GGUF file, without the tokenizer's."""
    own: dict[str, int | float] = {
        "block_count": shape.layers,
        "context_length": shape.context,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.ffn,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.layer_norm_rms_epsilon": shape.eps,
        "rope.freq_base": shape.theta,
        "rope.dimension_count": shape.head_dim,
        "vocab_size": shape.vocab,
    }
    if shape.experts:
        own |= {
            "expert_count": shape.experts, "expert_used_count": shape.chosen, "expert_feed_forward_length": shape.ffn,
            "attention.key_length": shape.head_dim, "attention.value_length": shape.head_dim,
        }  # fmt: skip
    name = f"{shape.name}, drawn weights"
    return {"general.architecture": shape.architecture, "general.name": name} | {
        f"{shape.architecture}.{key}": value for key, value in own.items()
    }


def rope_factors(shape: Shape) -> list[float]:
    """By what Llama 3's rotary frequencies are divided, one for every pair; a GGUF file carries them as a tensor."""
    low, high = _LLAMA3_ROPE["low_freq_factor"], _LLAMA3_ROPE["high_freq_factor"]
    factors = []
    for pair in range(shape.head_dim // 2):
        wavelength = 2 * math.pi * shape.theta ** (2 * pair / shape.head_dim)
        turns = _LLAMA3_ROPE["original_max_position_embeddings"] / wavelength
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        factors.append(1 / ((1 - kept) / _LLAMA3_ROPE["factor"] + kept))
    return factors
