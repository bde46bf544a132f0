"""A plan's configuration -> config.json of Hugging Face and the architecture's keys of GGUF."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pintpot.errors import UnsupportedModel, need
from pintpot.model.gguf_write import Value
from pintpot.packer.export.rope import scaling_of

_CLASSES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "mixtral": "MixtralForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM",
}  # fmt: skip
ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "mixtral": "llama",
    "qwen3_moe": "qwen3moe",
}  # fmt: skip
"""What GGUF calls each family."""
_SAME = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "rope_theta", "vocab_size", "max_position_embeddings", "tie_word_embeddings",
)  # fmt: skip
_KEYS = {
    "vocab_size": "vocab_size", "max_position_embeddings": "context_length", "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count", "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon", "rope_theta": "rope.freq_base",
}  # fmt: skip
_YARN = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}


def check_family(config: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel for a family whose tensors nobody has named here."""
    family = config["model_type"]
    need(family in _CLASSES, f"{family!r:.60} is not exported; {', '.join(_CLASSES)} are", UnsupportedModel)


def hf_config(config: Mapping[str, Any], dtype: str, rope_freqs: Sequence[float] = ()) -> dict[str, Any]:
    """What config.json holds. `rope_freqs` are the factors of a model that came as GGUF.

    Raises UnsupportedModel for what Hugging Face's networks do not compute.
    """
    check_family(config)
    window, family = config["sliding_window"], config["model_type"]
    if family == "llama" and window:
        need(not config["attention_bias"], "Hugging Face's mistral has no biases, this model has", UnsupportedModel)
        family = "mistral"  # the same network with a window
    scaling = config["rope_scaling"]
    if rope_freqs:
        scaling = scaling_of(rope_freqs, config["rope_theta"], config["head_dim"]) or scaling
    made = {
        "architectures": [_CLASSES[family]], "model_type": family, "torch_dtype": dtype, "hidden_act": "silu",
        **{key: config[key] for key in _SAME}, "bos_token_id": next(iter(config["bos_token_id"]), None),
        "eos_token_id": _one_or_all(config["eos_token_id"]),
    }  # fmt: skip
    if scaling is not None:
        made["rope_scaling"] = scaling
    if family in ("llama", "qwen3", "qwen3_moe"):
        made["attention_bias"] = config["attention_bias"]
    if family in ("mistral", "mixtral"):
        made["sliding_window"] = window
    made.update(_hf_experts(config))
    if family.startswith("qwen"):
        made["use_sliding_window"] = window is not None
        if window is not None:
            made.update(sliding_window=window, max_window_layers=0)
    return made


def _hf_experts(config: Mapping[str, Any]) -> dict[str, Any]:
    """How experts are told to Hugging Face's networks; nothing where there are none."""
    if "num_experts" not in config:
        return {}
    told = {"num_experts_per_tok": config["num_experts_per_tok"]}
    if config["model_type"] == "mixtral":
        need(config["norm_topk_prob"], "Hugging Face's mixtral has shares that add up to 1", UnsupportedModel)
        return {**told, "num_local_experts": config["num_experts"]}
    return {
        **told, "num_experts": config["num_experts"], "norm_topk_prob": config["norm_topk_prob"],
        "moe_intermediate_size": config["intermediate_size"], "decoder_sparse_step": 1, "mlp_only_layers": [],
    }  # fmt: skip


def _gguf_experts(config: Mapping[str, Any]) -> dict[str, Value]:
    """The same in GGUF's keys. Raises UnsupportedModel for shares that llama.cpp would make add up to 1."""
    if "num_experts" not in config:
        return {}
    why = "llama.cpp makes the shares of a token's experts add up to 1, and this model does not"
    need(config["norm_topk_prob"], why, UnsupportedModel)
    keys = {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"}
    keys["expert_feed_forward_length"] = "intermediate_size"
    return {key: config[name] for key, name in keys.items()}


def _one_or_all(ids: Sequence[int]) -> int | list[int] | None:
    return list(ids) if len(ids) > 1 else next(iter(ids), None)


def gguf_keys(config: Mapping[str, Any]) -> dict[str, Value]:
    """The architecture's keys of a GGUF file, its name among them."""
    check_family(config)
    architecture = ARCHITECTURES[config["model_type"]]
    own: dict[str, Value] = {key: config[name] for name, key in _KEYS.items()}
    for key in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
        own[key] = config["head_dim"]
    if config["sliding_window"]:
        own["attention.sliding_window"] = config["sliding_window"]
    own.update(_rope_scaling(config["rope_scaling"]))
    own.update(_gguf_experts(config))
    return {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in own.items()}}


def _rope_scaling(scaling: Mapping[str, Any] | None) -> dict[str, Value]:
    if scaling is None or scaling["rope_type"] == "llama3":  # that one is a tensor
        return {}
    kind, factor = scaling["rope_type"], float(scaling["factor"])
    keys: dict[str, Value] = {"rope.scaling.type": kind, "rope.scaling.factor": factor}
    if kind == "yarn":
        keys["rope.scaling.original_context_length"] = scaling["original_max_position_embeddings"]
        for name, key in _YARN.items():
            if name in scaling:
                keys[f"rope.scaling.{key}"] = float(scaling[name])
        if "attention_factor" in scaling:
            # llama.cpp multiplies it with YaRN's own factor, Hugging Face has the product.
            keys["rope.scaling.attn_factor"] = scaling["attention_factor"] / (1 + 0.1 * math.log(max(factor, 1.0)))
    return keys
