"""What a configuration says of feed-forward networks of which each token meets a few: how many, and how they are mixed.

Keys of the result: num_experts, num_experts_per_tok, norm_topk_prob (whether the shares of the chosen add up to 1), and
intermediate_size, the width of one expert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pintpot.errors import BadFile, UnsupportedModel, need
from pintpot.model.fields import flag, integer, show


@dataclass(frozen=True, slots=True)
class _Names:
    """What a family calls its numbers, and what transformers takes where config.json is silent."""

    experts: tuple[str, ...]
    width: str
    num_experts: int
    num_chosen: int
    default_width: int | None
    sums_to_one: bool | None


_FAMILIES: Final = {
    "mixtral": _Names(("num_local_experts",), "intermediate_size", 8, 2, None, True),
    "qwen3_moe": _Names(("num_experts", "num_local_experts"), "moe_intermediate_size", 128, 8, 768, None),
}
"""Families with experts; where `sums_to_one` is None the configuration says it."""
GGUF_FAMILIES: Final = {"llama": "mixtral", "qwen3moe": "qwen3_moe"}
"""Architectures of GGUF whose files may hold experts, and the families of those that do."""


def expert_settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of config.json; nothing for a family without experts.

    Raises UnsupportedModel for layers that differ, BadFile for what is no number.
    """
    names = _FAMILIES.get(str(config.get("model_type")))
    if names is None:
        return {}
    dense = config.get("mlp_only_layers")
    need(dense in (None, []), f"{where}: layers {show(dense)} without experts do not run here", UnsupportedModel)
    step = integer(config, "decoder_sparse_step", where, default=1)
    need(step == 1, f"{where}: experts in each layer of {step} do not run here; in every layer do", UnsupportedModel)
    key = next((name for name in names.experts if name in config), names.experts[0])
    sums = flag(config, "norm_topk_prob", where) if names.sums_to_one is None else names.sums_to_one
    return checked(
        integer(config, key, where, default=names.num_experts),
        integer(config, "num_experts_per_tok", where, default=names.num_chosen),
        sums,
        integer(config, names.width, where, default=names.default_width),
        where,
    )


def gguf_expert_settings(own: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The same of GGUF's keys without the architecture's name: llama.cpp makes shares add up to 1 in these."""
    count = integer(own, "expert_count", where, least=0, default=0)
    if count == 0:
        return {}
    chosen = integer(own, "expert_used_count", where)
    width = integer(own, "expert_feed_forward_length", where, default=own.get("feed_forward_length"))
    return checked(count, chosen, True, width, where)


def checked(num_experts: int, num_chosen: int, sums_to_one: bool, width: int, where: str) -> dict[str, Any]:
    """The settings, once a token may meet so many of so many."""
    need(num_experts > 1, f"{where}: {num_experts} experts leave nothing to choose", UnsupportedModel)
    enough = num_chosen <= num_experts
    need(enough, f"{where}: a token cannot meet {num_chosen} of {num_experts} experts", BadFile)
    return {
        "num_experts": num_experts, "num_experts_per_tok": num_chosen, "norm_topk_prob": sums_to_one,
        "intermediate_size": width,
    }  # fmt: skip
