"""Rotary positions of config.json in their many forms -> rope_theta, rope_scaling and partial_rotary_factor."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, sqrt
from typing import Any, Final

from pintpot.errors import BadFile, UnsupportedModel, need
from pintpot.model.fields import flag, integer, real, reals, show

_ROPE_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("original_max_position_embeddings",),
}
_YARN_OPTIONS: Final = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")
_SCALINGS: Final = {"phi3": ("longrope",)}
"""What each family's published models use, for those that do not use what the others do."""
_USUAL: Final = ("linear", "llama3", "yarn")
_OLD_NAMES: Final = {"phi3": {"su": "longrope", "yarn": "longrope"}}
"""Names that configurations had before LongRoPE was published; transformers takes them for it."""
PARTIAL_ROTARY: Final = frozenset({"phi3"})
"""Families that may rotate only the first columns of each head."""


def rope_settings(config: Mapping[str, Any], defaults: Mapping[str, Any], head_dim: int, where: str) -> dict[str, Any]:
    """rope_theta, rope_scaling, and partial_rotary_factor where it is not 1, of the language model's configuration.

    They come in the new form (rope_parameters) or the old (rope_theta, rope_scaling). Raises UnsupportedModel for what
    does not run here, BadFile for what is missing or no number.
    """
    new, old = config.get("rope_parameters"), config.get("rope_scaling")
    given = new if new is not None else old if old is not None else {}
    if not isinstance(given, dict):
        raise BadFile(f"{where}: the rope parameters are {show(given)}, not an object")
    nested = next((key for key, value in given.items() if isinstance(value, dict)), None)
    need(nested is None, f"{where}: rope parameters for {nested!r} alone do not run here", UnsupportedModel)
    theta = {"rope_theta": given.get("rope_theta", config.get("rope_theta"))}
    found = {"rope_theta": real(theta, "rope_theta", where, default=defaults.get("rope_theta", 10000.0))}
    rope_dim = _rotary_columns(config, given, head_dim, where)
    partial = {} if rope_dim == head_dim else {"partial_rotary_factor": rope_dim / head_dim}
    return {**found, "rope_scaling": _scaling(config, given, defaults, rope_dim, where), **partial}


def _rotary_columns(config: Mapping[str, Any], given: Mapping[str, Any], head_dim: int, where: str) -> int:
    """The columns of each head that are rotated."""
    share = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if share in (None, 1):
        return head_dim
    why = f"{where}: partial_rotary_factor {show(share)} does not run here"
    need(config.get("model_type") in PARTIAL_ROTARY, why, UnsupportedModel)
    columns = int(head_dim * real({"partial_rotary_factor": share}, "partial_rotary_factor", where))
    check_rotary(columns, head_dim, where)
    return columns


def check_rotary(columns: int, head_dim: int, where: str) -> None:
    """Raise BadFile unless so many columns of a head can be rotated."""
    even = 2 <= columns <= head_dim and columns % 2 == 0
    need(even, f"{where}: {columns} of a head's {head_dim} columns cannot be rotated in pairs", BadFile)


def _scaling(
    config: Mapping[str, Any], given: Mapping[str, Any], defaults: Mapping[str, Any], rope_dim: int, where: str
) -> dict[str, Any] | None:
    family = str(config.get("model_type"))
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default" or (kind == "mrope" and "mrope_section" in given):
        return None
    kind = _OLD_NAMES.get(family, {}).get(kind, kind) if isinstance(kind, str) else kind
    runs = _SCALINGS.get(family, _USUAL)
    if kind not in runs:
        one = len(runs) == 1
        raise UnsupportedModel(
            f"{where}: rope scaling {show(kind)} does not run here; {', '.join(runs)} {'does' if one else 'do'}"
        )
    key = "original_max_position_embeddings"
    original = config.get(key, defaults.get(key, config.get("max_position_embeddings")))
    filled = {**given, key: given.get(key) or original}
    scaling: dict[str, Any] = {"rope_type": kind}
    for name in _ROPE_KEYS[kind]:
        scaling[name] = integer(filled, name, where) if name.startswith("original") else real(filled, name, where)
    if kind == "yarn":
        for name in _YARN_OPTIONS:
            if given.get(name) is not None:
                scaling[name] = flag(given, name, where) if name == "truncate" else real(given, name, where)
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        need(low < high, f"{where}: low_freq_factor {low} is not below high_freq_factor {high}", BadFile)
    if kind == "longrope":
        scaling["short_factor"] = reals(given, "short_factor", where, count=rope_dim // 2)
        most = integer(config, "max_position_embeddings", where, default=defaults.get("max_position_embeddings"))
        scaling["attention_factor"] = _attention_factor(given, scaling[key], most, where)
    return scaling


def _attention_factor(given: Mapping[str, Any], original: int, most: int, where: str) -> float:
    """What LongRoPE multiplies cosines and sines with (Ding et al. 2024, arXiv:2402.13753)."""
    if given.get("attention_factor") is not None:
        return real(given, "attention_factor", where)
    factor = real(given, "factor", where, default=most / original)
    return sqrt(1 + log(factor) / log(original)) if factor > 1 and original > 1 else 1.0
