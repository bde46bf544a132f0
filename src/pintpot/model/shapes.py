"""The shapes that a configuration promises, held against the tensors that are there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pintpot.errors import BadFile, UnsupportedModel, need
from pintpot.formats import SOURCE_FORMATS
from pintpot.model.names import POST_NORMS
from pintpot.model.spec import Weight

_FLOATS: Final = ("f32", "f16", "bf16")
_MORE_ROLES: Final = {
    "qwen3": frozenset({"q_norm", "k_norm"}),
    "qwen3_moe": frozenset({"q_norm", "k_norm"}),
    "gemma3": frozenset({"q_norm", "k_norm", *POST_NORMS}),
}
"""What every layer of a family has beside what all have."""
_LAYER = re.compile(r"layers\.(\d+)\..+")


def layer_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every weight that a layer may have, by role: (rows, columns), or one axis; rows of all experts together."""
    hidden, ffn, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    count = config.get("num_experts", 1)
    return {
        "attn_norm": (hidden,), "q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden),
        "o": (hidden, queries), "q_bias": (queries,), "k_bias": (keys,), "v_bias": (keys,), "o_bias": (hidden,),
        "q_norm": (head_dim,), "k_norm": (head_dim,), "ffn_norm": (hidden,),
        "attn_post_norm": (hidden,), "ffn_post_norm": (hidden,),
        "router": (count, hidden),
        "gate": (count * ffn, hidden), "up": (count * ffn, hidden), "down": (count * hidden, ffn),
    }  # fmt: skip


def rope_dim(config: Mapping[str, Any]) -> int:
    """The columns of each head that are rotated."""
    return round(float(config["head_dim"]) * float(config.get("partial_rotary_factor", 1.0)))


def required_roles(config: Mapping[str, Any]) -> frozenset[str]:
    """The roles that every layer of this configuration must have."""
    roles = {"attn_norm", "q", "k", "v", "o", "ffn_norm", "gate", "up", "down"}
    if config.get("num_experts"):
        roles |= {"router"}
    if config["attention_bias"]:
        roles |= {"q_bias", "k_bias", "v_bias"}
    return frozenset(roles | _MORE_ROLES.get(config["model_type"], frozenset()))


def check_shapes(weights: Mapping[str, Weight], config: Mapping[str, Any], where: str) -> None:
    """Raise BadFile where weights are missing, too many or of another shape than the configuration says, and
    UnsupportedModel where one is written in a format that is not read here."""
    num_layers = config["num_hidden_layers"]
    found = {int(match[1]) for name in weights if (match := _LAYER.fullmatch(name))}
    same = len(found) == num_layers and (not found or max(found) == num_layers - 1)
    need(same, f"{where}: the configuration says {num_layers} layers, the tensors are of {len(found)}", BadFile)
    per_layer, required = layer_shapes(config), required_roles(config)
    for name in (
        "embed",
        "norm",
        *(f"layers.{layer}.{role}" for layer in range(num_layers) for role in sorted(required)),
    ):
        need(name in weights, f"{where}: there is no tensor for {name}", BadFile)
    biased = {name.rpartition(".")[2] for name in weights if name.endswith(("q_bias", "k_bias", "v_bias", "o_bias"))}
    need(
        not biased or config["attention_bias"],
        f"{where}: attention_bias is false, but there is {min(biased, default='')}",
        BadFile,
    )
    for name, weight in weights.items():
        _check_weight(weight, _expected(name, per_layer, config), where)
    for role in ("o_bias", "q_norm", "k_norm"):
        count = sum(name.endswith("." + role) for name in weights)
        need(count in (0, num_layers), f"{where}: {count} of {num_layers} layers have {role}", BadFile)


def _expected(name: str, per_layer: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> tuple[int, ...]:
    top = {
        "embed": (config["vocab_size"], config["hidden_size"]), "head": (config["vocab_size"], config["hidden_size"]),
        "norm": (config["hidden_size"],), "rope_freqs": (rope_dim(config) // 2,),
    }  # fmt: skip
    return top[name] if name in top else per_layer[name.rpartition(".")[2]]


def _check_weight(weight: Weight, expected: tuple[int, ...], where: str) -> None:
    if weight.shape != expected:
        have, want = ("x".join(map(str, shape)) for shape in (weight.shape, expected))
        raise BadFile(f"{where}: {weight.name} is {have}, but the configuration makes it {want}")
    if weight.num_bytes == 0:
        raise BadFile(f"{where}: {weight.name} is empty")
    readable = _FLOATS if len(expected) == 1 else SOURCE_FORMATS
    why = f"{where}: {weight.name} is written as {weight.dtype.upper()}; {', '.join(readable)} are read here"
    need(weight.dtype in readable, why, UnsupportedModel)
