"""Described models without files, for tests of planning: any family, any encoding, tied or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pintpot.model.spec import Block, Model, Part, Source, TokenizerInfo, Weight

EXPERTS = ("mixtral", "qwen3_moe")


@dataclass(frozen=True)
class Net:
    """The numbers of a small decoder; `matrix` and `vocabulary` are the encodings of its weights."""

    family: str = "llama"
    layers: int = 3
    hidden: int = 256
    ffn: int = 512
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vocab: int = 1000
    matrix: str = "bf16"
    vocabulary: str = "bf16"
    tied: bool = True
    window: int | None = None
    experts: int = 8
    context: int = 4096


def described(net: Net | None = None, **changes: Any) -> Model:
    """The model that `describe` would give for files of these shapes."""
    net = replace(net or Net(), **changes)
    blocks = [Block("embed", (_weight("embed", net.vocabulary, net.vocab, net.hidden),))]
    blocks += [_block(net, f"layers.{index}.") for index in range(net.layers)]
    last = [_weight("norm", "f32", net.hidden)]
    if not net.tied:
        last.append(_weight("head", net.vocabulary, net.vocab, net.hidden))
    config: dict[str, Any] = {
        "hidden_size": net.hidden, "intermediate_size": net.ffn, "num_hidden_layers": net.layers,
        "num_attention_heads": net.heads, "num_key_value_heads": net.kv_heads, "head_dim": net.head_dim,
        "vocab_size": net.vocab, "rms_norm_eps": 1e-5, "sliding_window": net.window,
    }  # fmt: skip
    if net.family == "gemma3":
        kinds = ["full_attention" if index % 2 else "sliding_attention" for index in range(net.layers)]
        config |= {"layer_types": kinds, "query_pre_attn_scalar": 24.0, "rope_local_base_freq": 1e4}
    if net.family in EXPERTS:
        config |= {"num_experts": net.experts, "num_experts_per_tok": 2, "norm_topk_prob": True}
    part = Part("language", net.family, config, (*blocks, Block("head", tuple(last))))
    tokenizer = TokenizerInfo("gpt2", net.vocab, net.vocab, 1)
    ties = (("head", "embed"),) if net.tied else ()
    source = Source("gguf", "m.gguf", ("m.gguf",))
    return Model(
        "drawn",
        "llm",
        (part,),
        ties,
        net.context,
        source,
        tokenizer,
        f"{net.family}{net.layers}{net.matrix}".replace("_", ""),
    )


def _block(net: Net, at: str) -> Block:
    queries, keys = net.heads * net.head_dim, net.kv_heads * net.head_dim
    weights = [_weight(at + "attn_norm", "f32", net.hidden)]
    for role, rows in (("q", queries), ("k", keys), ("v", keys)):
        weights.append(_weight(at + role, net.matrix, rows, net.hidden))
        if net.family == "qwen2":
            weights.append(_weight(f"{at}{role}_bias", "f32", rows))
    if net.family in ("qwen3", "gemma3", "qwen3_moe"):
        weights += [_weight(at + name, "f32", net.head_dim) for name in ("q_norm", "k_norm")]
    weights.append(_weight(at + "o", net.matrix, net.hidden, queries))
    if net.family == "gemma3":
        weights.append(_weight(at + "attn_post_norm", "f32", net.hidden))
    weights.append(_weight(at + "ffn_norm", "f32", net.hidden))
    experts = net.experts if net.family in EXPERTS else 1
    if experts > 1:
        weights.append(_weight(at + "router", "f32", experts, net.hidden))
    sides = [(role, net.ffn, net.hidden) for role in ("gate", "up")] + [("down", net.hidden, net.ffn)]
    for role, rows, columns in sides:
        made = _weight(at + role, net.matrix, experts * rows, columns)
        weights.append(replace(made, experts=experts))
    if net.family == "gemma3":
        weights.append(_weight(at + "ffn_post_norm", "f32", net.hidden))
    return Block(at.rstrip("."), tuple(weights))


def _weight(name: str, dtype: str, *shape: int) -> Weight:
    num_bytes = 2
    for axis in shape:
        num_bytes *= axis
    return Weight(name, shape, dtype, 0, 0, num_bytes)
