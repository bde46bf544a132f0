"""config.json as Hugging Face writes it -> one normalized dict, with every key that the rest of Pintpot reads.

Keys of the result: model_type, hidden_size, intermediate_size, num_hidden_layers, num_attention_heads,
num_key_value_heads, head_dim, rms_norm_eps, rope_theta, rope_scaling (None, or a dict with rope_type linear, llama3,
yarn or longrope), rope_layout ("half" or "interleaved"), partial_rotary_factor (where it is not 1),
max_position_embeddings, vocab_size, tie_word_embeddings, attention_bias, sliding_window (None or a number),
bos_token_id and eos_token_id (lists); where layers differ, layer_types, query_pre_attn_scalar, rope_local_base_freq;
where positions have several numbers, mrope_section and mrope_interleaved; where there are experts, what
`pintpot.model.config_experts` says.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pintpot.errors import BadFile, NoFamily, UnsupportedModel, need
from pintpot.model.adapted import FAMILY
from pintpot.model.config_experts import expert_settings
from pintpot.model.config_layers import PATTERNS, global_rope, layer_settings
from pintpot.model.config_rope import rope_settings
from pintpot.model.config_sections import section_settings
from pintpot.model.fields import flag, integer, real, show, token_ids

_NESTED: Final = ("text_config", "llm_config", "language_config", "language_model_config", "thinker_config")
_SHARED: Final = ("tie_word_embeddings", "bos_token_id", "eos_token_id")
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32},
    "qwen3": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
    "mixtral": {
        "max_position_embeddings": 131072, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
    },
    "qwen3_moe": {"max_position_embeddings": 32768, "num_key_value_heads": 4},
    "phi3": {"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
    "gemma3": {
        "max_position_embeddings": 131072, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "vocab_size": 262208, "sliding_window": 4096, "rope_theta": 1e6, "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh",
    },
}  # fmt: skip
"""What transformers' configuration classes take where config.json is silent; sizes that shape the weights have none,
unless published files leave them out."""
_OTHER_NAMES: Final = {
    "gemma3_text": "gemma3", "qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2", "qwen3_vl": "qwen3", "qwen3_vl_text": "qwen3",
}  # fmt: skip
"""Model types of a family's language model alone, or inside a vision-language model."""
_INSIDE: Final[dict[str, dict[str, Any]]] = {
    "llama": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 32000,
    },
}  # fmt: skip
"""Sizes that published vision-language models leave out of their language model's part."""
_LAST_WINDOWS: Final = {"qwen2": 28, "qwen3": 28}
"""Families whose first layers see everything: so many, unless max_window_layers says another number."""
_SILU: Final = ("silu", "swish")
_ACTIVATIONS: Final = {"gemma3": ("gelu_pytorch_tanh",)}


def families() -> tuple[str, ...]:
    """The model types that run natively: the files of `pintpot/nets`, listed and not imported."""
    nets = Path(__file__).parent.parent / "nets"
    found = (file.stem for file in nets.glob("*.py"))
    return tuple(sorted(name for name in found if not name.startswith("_") and name != FAMILY))


def check_family(model_type: str, where: str) -> None:
    """Raise NoFamily, naming the nearest one, unless this one runs natively."""
    known = families()
    if model_type in known:
        return
    prefixed = [name for name in known if model_type.startswith(name)]
    near = max(prefixed, key=len) if prefixed else difflib.get_close_matches(model_type, known, 1, 0.0)[0]
    listed = ", ".join(known)
    raise NoFamily(
        f"{where}: the architecture {model_type!r} does not run here; the nearest that does is {near} (of {listed})"
    )


def language_config(config: Mapping[str, Any], where: str, depth: int = 3) -> tuple[Mapping[str, Any], str]:
    """The language model's own part of a configuration and where it is: the whole, or the nested one of a
    vision-language model, with the ties and ids that only the outer one names."""
    if "hidden_size" in config and "num_hidden_layers" in config:
        return config, where
    for key in _NESTED:
        inner = config.get(key)
        if isinstance(inner, dict) and depth:
            found, place = language_config(inner, f"{where}, {key}", depth - 1)
            return {**{shared: config[shared] for shared in _SHARED if shared in config}, **found}, place
    return config, where


def normalize(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The normalized configuration of config.json's object `raw`; `where` names the file in errors.

    Raises UnsupportedModel for what does not run here, BadFile for what is missing or no number.
    """
    config, where = language_config(raw, where)
    model_type = config.get("model_type")
    if config is not raw and isinstance(model_type, str):
        config = {**_INSIDE.get(model_type, {}), **config}
    if not isinstance(model_type, str):
        raise BadFile(f"{where}: model_type is missing")
    model_type, own_type = _OTHER_NAMES.get(model_type, model_type), model_type
    check_family(model_type, where)
    config = {**config, "model_type": model_type}
    _refuse_unknown(raw, config, where)
    defaults, experts = _DEFAULTS.get(model_type, {}), expert_settings(config, where)
    hidden = integer(config, "hidden_size", where)
    heads = integer(config, "num_attention_heads", where, default=defaults.get("num_attention_heads"))
    vocab_size = integer(config, "vocab_size", where, default=defaults.get("vocab_size"))
    head_dim = integer(config, "head_dim", where, default=defaults.get("head_dim", hidden // heads))
    normal: dict[str, Any] = {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": integer(config, "intermediate_size", where, default=experts.get("intermediate_size")),
        "num_hidden_layers": integer(config, "num_hidden_layers", where),
        "num_attention_heads": heads,
        "num_key_value_heads": _key_value_heads(config, heads, defaults, where),
        "head_dim": head_dim,
        "rms_norm_eps": real(config, "rms_norm_eps", where, default=defaults.get("rms_norm_eps", 1e-6)),
        "max_position_embeddings": integer(
            config, "max_position_embeddings", where, default=defaults.get("max_position_embeddings")
        ),
        "vocab_size": vocab_size,
        "tie_word_embeddings": flag(
            config, "tie_word_embeddings", where, default=defaults.get("tie_word_embeddings", False)
        ),
        "attention_bias": model_type == "qwen2" or flag(config, "attention_bias", where),
        "sliding_window": _window(config, defaults, where),
        "bos_token_id": token_ids(config.get("bos_token_id"), vocab_size),
        "eos_token_id": token_ids(config.get("eos_token_id"), vocab_size),
        "rope_layout": "half",
        **rope_settings(global_rope(config), defaults, head_dim, where),
        **layer_settings(config, where),
        **section_settings(own_type, config, head_dim, where),
        **experts,
    }
    check_heads(normal, where)
    return normal


def _key_value_heads(config: Mapping[str, Any], heads: int, defaults: Mapping[str, Any], where: str) -> int:
    silent = heads if "num_key_value_heads" in config else defaults.get("num_key_value_heads", heads)
    return integer(config, "num_key_value_heads", where, default=silent)


def check_heads(config: Mapping[str, Any], where: str) -> None:
    """Raise BadFile where the numbers of heads cannot be right."""
    heads, kv_heads, head_dim = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    need(heads % kv_heads == 0, f"{where}: {heads} heads cannot share {kv_heads} key and value heads", BadFile)
    need(
        head_dim >= 2 and head_dim % 2 == 0, f"{where}: rotary positions need an even head_dim, not {head_dim}", BadFile
    )


def _refuse_unknown(raw: Mapping[str, Any], config: Mapping[str, Any], where: str) -> None:
    """Raise UnsupportedModel for options that would change the arithmetic and that nothing here computes."""
    stored = raw.get("quantization_config") or config.get("quantization_config")
    if stored:
        method = stored.get("quant_method") if isinstance(stored, dict) else None
        raise UnsupportedModel(
            f"{where}: the weights are stored quantized by {show(method)}; give the original or a GGUF file"
        )
    family = str(config["model_type"])
    usual = _DEFAULTS.get(family, {}).get("hidden_activation", "silu")
    act, runs = config.get("hidden_activation") or config.get("hidden_act", usual), _ACTIVATIONS.get(family, _SILU)
    need(act in runs, f"{where}: hidden_act {show(act)} does not run here; {runs[0]} does", UnsupportedModel)
    need(not flag(config, "mlp_bias", where), f"{where}: mlp_bias does not run here", UnsupportedModel)


def _window(config: Mapping[str, Any], defaults: Mapping[str, Any], where: str) -> int | None:
    """The sliding window that every layer keeps, None for none. Raises UnsupportedModel where only some keep it."""
    model_type, kinds = str(config["model_type"]), config.get("layer_types")
    value = config["sliding_window"] if "sliding_window" in config else defaults.get("sliding_window")
    if value is None or model_type == "llama" or flag(config, "use_sliding_window", where, default=True) is False:
        return None
    window = integer({"sliding_window": value}, "sliding_window", where)
    if model_type in PATTERNS:
        return window
    layers = integer(config, "num_hidden_layers", where)
    first = 0
    if model_type.startswith("qwen"):
        if not flag(config, "use_sliding_window", where):
            return None
        if model_type in _LAST_WINDOWS:
            first = integer(config, "max_window_layers", where, least=0, default=_LAST_WINDOWS[model_type])
    sliding = layers - min(first, layers)
    if isinstance(kinds, list):
        sliding = sum(kind == "sliding_attention" for kind in kinds)
    why = f"{where}: a sliding window on {sliding} of {layers} layers does not run here; on all or on none does"
    need(sliding in (0, layers), why, UnsupportedModel)
    return window if sliding else None
