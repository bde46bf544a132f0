"""GGUF metadata -> the same normalized dict that `pintpot.model.config` makes of config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from pintpot.errors import BadFile, UnsupportedModel, need
from pintpot.model.config import check_family, check_heads
from pintpot.model.config_experts import GGUF_FAMILIES, gguf_expert_settings
from pintpot.model.config_layers import GLOBAL, LOCAL, PATTERNS, alternating
from pintpot.model.config_rope import PARTIAL_ROTARY, check_rotary
from pintpot.model.fields import integer, real, show, token_ids
from pintpot.model.gguf import Gguf, GgufArray

_INTERLEAVED: Final = ("llama",)
"""Architectures whose rows of q and k llama.cpp's converter reorders from halves to pairs."""
_SHORT: Final = "rope_factors_short.weight"
_LARGEST_GEMMA3: Final = 62
_END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")
_YARN: Final = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}


def normalize_gguf(gguf: Gguf) -> dict[str, Any]:
    """The normalized configuration. Raises UnsupportedModel for what does not run here, BadFile for what is missing.

    `tie_word_embeddings` and `attention_bias` follow from the tensors that are there, as in llama.cpp.
    """
    where = gguf.sources[0].name
    architecture = gguf.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise BadFile(f"{where}: general.architecture is missing")
    own = _own(gguf, architecture, where)
    experts = gguf_expert_settings(own, where)
    family = GGUF_FAMILIES.get(architecture, architecture) if experts else architecture
    check_family(family, where)
    names = {tensor.name for tensor in gguf.tensors}
    hidden, heads = integer(own, "embedding_length", where), integer(own, "attention.head_count", where)
    head_dim = integer(own, "attention.key_length", where, default=max(1, hidden // heads))
    _check_own(own, head_dim, where)
    partial = _partial_rotary(own, architecture, head_dim, where)
    words = gguf.metadata.get("tokenizer.ggml.tokens")
    vocab_size = integer(own, "vocab_size", where, default=words.count if isinstance(words, GgufArray) else None)
    ids = {key: gguf.metadata.get(f"tokenizer.ggml.{key}") for key in ("bos_token_id", *_END_KEYS)}
    config: dict[str, Any] = {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": integer(own, "feed_forward_length", where, default=experts.get("intermediate_size")),
        "num_hidden_layers": integer(own, "block_count", where),
        "num_attention_heads": heads,
        "num_key_value_heads": integer(own, "attention.head_count_kv", where, default=heads),
        "head_dim": head_dim,
        "rms_norm_eps": real(own, "attention.layer_norm_rms_epsilon", where),
        "max_position_embeddings": integer(own, "context_length", where),
        "vocab_size": vocab_size,
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": "blk.0.attn_q.bias" in names,
        "sliding_window": integer(own, "attention.sliding_window", where, least=0, default=0) or None,
        "bos_token_id": token_ids(ids["bos_token_id"], vocab_size),
        "eos_token_id": token_ids([ids[key] for key in _END_KEYS], vocab_size),
        "rope_layout": "interleaved" if architecture in _INTERLEAVED else "half",
        "rope_theta": real(own, "rope.freq_base", where, default=10000.0),
        "rope_scaling": _longrope(own, where) if _SHORT in names else _rope_scaling(own, where),
        **partial,
        **_layers(gguf, own, hidden // heads, head_dim, where),
        **experts,
    }
    check_heads(config, where)
    return config


def _own(gguf: Gguf, architecture: str, where: str) -> dict[str, Any]:
    """The architecture's keys without its name; a value per layer becomes one number where all layers agree."""
    own: dict[str, Any] = {}
    for key, value in gguf.metadata.items():
        if not key.startswith(architecture + "."):
            continue
        name = key[len(architecture) + 1 :]
        if isinstance(value, GgufArray) and name in (
            "feed_forward_length",
            "attention.head_count",
            "attention.head_count_kv",
        ):
            values = set(gguf.read_array(key))
            why = f"{where}: {key} differs between layers ({show(sorted(values, key=repr))}), which does not run here"
            need(len(values) == 1, why, UnsupportedModel)
            value = values.pop()
        own[name] = value
    return own


def _layers(gguf: Gguf, own: Mapping[str, Any], width: int, head_dim: int, where: str) -> dict[str, Any]:
    """What `pintpot.model.config_layers` reads of config.json; GGUF files leave most of it to llama.cpp."""
    architecture = str(gguf.metadata["general.architecture"])
    if architecture not in PATTERNS:
        return {}
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        need(not own.get(key), f"{where}: {key} {show(own.get(key))} does not run here", UnsupportedModel)
    layers, key = integer(own, "block_count", where), "attention.sliding_window_pattern"
    if isinstance(own.get(key), GgufArray):
        windowed = gguf.read_array(f"{architecture}.{key}")
        need(len(windowed) == layers, f"{where}: {key} is of {len(windowed)} layers, not of {layers}", BadFile)
        kinds = [LOCAL if one else GLOBAL for one in windowed]
    else:
        kinds = alternating(layers, integer(own, key, where, least=0, default=PATTERNS[architecture]))
    # The largest published model divides by the root of its width for each head, and files do not say so.
    scalar = width if layers == _LARGEST_GEMMA3 else head_dim
    base = real(own, "rope.freq_base_swa", where, default=10000.0)
    return {"layer_types": kinds, "query_pre_attn_scalar": float(scalar), "rope_local_base_freq": base}


def _check_own(own: Mapping[str, Any], head_dim: int, where: str) -> None:
    _check_equal("attention.value_length", own, head_dim, where)
    shared = integer(own, "expert_shared_count", where, least=0, default=0)
    need(shared == 0, f"{where}: {shared} experts that every token meets do not run here", UnsupportedModel)


def _check_equal(key: str, own: Mapping[str, Any], head_dim: int, where: str) -> None:
    value = integer(own, key, where, default=head_dim)
    why = f"{where}: {key} is {value}, but heads have {head_dim}; both must be equal here"
    need(value == head_dim, why, UnsupportedModel)


def _partial_rotary(own: Mapping[str, Any], architecture: str, head_dim: int, where: str) -> dict[str, float]:
    """The share of each head that is rotated, where it is not all of it."""
    if architecture not in PARTIAL_ROTARY:
        _check_equal("rope.dimension_count", own, head_dim, where)
    columns = integer(own, "rope.dimension_count", where, default=head_dim)
    check_rotary(columns, head_dim, where)
    return {} if columns == head_dim else {"partial_rotary_factor": columns / head_dim}


def _longrope(own: Mapping[str, Any], where: str) -> dict[str, Any]:
    """LongRoPE, whose short factors are a tensor: what turns sequences up to the original length."""
    original = integer(own, "rope.scaling.original_context_length", where)
    factor = real(own, "rope.scaling.attn_factor", where, default=1.0)
    return {"rope_type": "longrope", "original_max_position_embeddings": original, "attention_factor": factor}


def _rope_scaling(own: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    kind = own.get("rope.scaling.type", "linear" if "rope.scale_linear" in own else "none")
    if kind == "none":
        return None
    if kind == "linear":
        old = real(own, "rope.scale_linear", where, default=1.0)
        return {"rope_type": "linear", "factor": real(own, "rope.scaling.factor", where, default=old)}
    need(kind == "yarn", f"{where}: rope scaling {show(kind)} does not run here; linear and yarn do", UnsupportedModel)
    factor = real(own, "rope.scaling.factor", where)
    original = integer(own, "rope.scaling.original_context_length", where, default=own.get("context_length"))
    scaling: dict[str, Any] = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    for key, name in _YARN.items():
        if f"rope.scaling.{key}" in own:
            scaling[name] = real(own, f"rope.scaling.{key}", where)
    strength = "rope.scaling.yarn_attn_factor" if "rope.scaling.yarn_attn_factor" in own else "rope.scaling.attn_factor"
    if strength in own:
        # llama.cpp multiplies this with YaRN's own factor, transformers takes the product.
        scaling["attention_factor"] = real(own, strength, where) * (1 + 0.1 * math.log(max(factor, 1.0)))
    for key in ("yarn_log_multiplier", "yarn_ext_factor"):
        odd = own.get(f"rope.scaling.{key}", 1.0 if key.endswith("ext_factor") else 0.0)
        usual = 1.0 if key.endswith("ext_factor") else 0.0
        need(odd == usual, f"{where}: rope.scaling.{key} {show(odd)} does not run here", UnsupportedModel)
    return scaling
