"""Gemma 3 (Kamath et al. 2025, arXiv:2503.19786): most layers see a window, norms stand before and after each product.

Its files in Hugging Face's form keep the gains of norms as their distance from 1, which is added when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from pintpot.budget import Workload
from pintpot.contract.form import Form
from pintpot.nets._decoder import Own, decoder_work
from pintpot.nets._decoder import check_decoder as check
from pintpot.program.spec import Work

__all__ = ["check", "work"]


def work(config: Mapping[str, Any], form: Form, workload: Workload) -> Work:
    """Layers that see only a window turn by a base of their own, the others by a larger one."""
    own = Own(
        gate="geglu",
        embed_scale=sqrt(config["hidden_size"]),
        attend_scale=config["query_pre_attn_scalar"] ** -0.5,
        local=tuple(kind == "sliding_attention" for kind in config["layer_types"]),
    )
    return decoder_work(config, form, workload, own)
