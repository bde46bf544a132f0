"""What a configuration says of layers that differ: which see only a window, and what each kind turns positions by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pintpot.errors import BadFile, UnsupportedModel, need
from pintpot.model.fields import integer, real, show

KINDS: Final = ("sliding_attention", "full_attention")
LOCAL, GLOBAL = KINDS
PATTERNS: Final = {"gemma3": 6}
"""Families some of whose layers see only a window: of so many layers the last sees everything, if nobody says more."""


def layer_settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """layer_types, query_pre_attn_scalar and rope_local_base_freq of config.json; nothing where all layers are alike.

    Raises UnsupportedModel for arithmetic that does not run here, BadFile for what is no number or no list.
    """
    family = str(config.get("model_type"))
    if family not in PATTERNS:
        return {}
    for key in ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention"):
        value = config.get(key)
        need(value in (None, False), f"{where}: {key} {show(value)} does not run here", UnsupportedModel)
    layers, kinds = integer(config, "num_hidden_layers", where), config.get("layer_types")
    if kinds is None:
        kinds = alternating(layers, integer(config, "sliding_window_pattern", where, default=PATTERNS[family]))
    known = isinstance(kinds, list) and len(kinds) == layers and all(kind in KINDS for kind in kinds)
    need(known, f"{where}: layer_types {show(kinds)}; {layers} of {' and '.join(KINDS)} are needed", BadFile)
    return {
        "layer_types": kinds,
        "query_pre_attn_scalar": real(config, "query_pre_attn_scalar", where, default=256.0),
        "rope_local_base_freq": _local_base(config, where),
    }


def alternating(layers: int, pattern: int) -> list[str]:
    """The kinds of layers where each `pattern`-th sees everything (0: all do)."""
    return [GLOBAL if pattern == 0 or (index + 1) % pattern == 0 else LOCAL for index in range(layers)]


def _local_base(config: Mapping[str, Any], where: str) -> float:
    by_kind = config.get("rope_parameters")
    own = by_kind.get(LOCAL) if isinstance(by_kind, dict) else None
    given = own if isinstance(own, dict) else {}
    kind = given.get("rope_type", "default")
    need(kind == "default", f"{where}: rope scaling {show(kind)} of windows does not run here", UnsupportedModel)
    base = {"rope_theta": given.get("rope_theta", config.get("rope_local_base_freq"))}
    return real(base, "rope_theta", where, default=10000.0)


def global_rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same configuration with the rotary parameters of the layers that see everything, where each kind has some."""
    by_kind = config.get("rope_parameters")
    own = by_kind.get(GLOBAL) if isinstance(by_kind, dict) and str(config.get("model_type")) in PATTERNS else None
    return {**config, "rope_parameters": own} if isinstance(own, dict) else config
