"""Qwen3-MoE (Yang et al. 2025, arXiv:2505.09388): qwen3 whose tokens meet a few of many narrow feed-forward networks.

Shares come of a softmax over all experts; whether those of the chosen are made to add up to 1 the configuration says.
"""

from __future__ import annotations

from pintpot.nets._decoder import check_decoder as check
from pintpot.nets._decoder import decoder_work as work

__all__ = ["check", "work"]
