"""Qwen2 and Qwen2.5 (Yang et al. 2024): llama with biases on q, k and v."""

from __future__ import annotations

from pintpot.nets._decoder import check_decoder as check
from pintpot.nets._decoder import decoder_work as work

__all__ = ["check", "work"]
