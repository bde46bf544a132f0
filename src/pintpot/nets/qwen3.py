"""Qwen3 (Yang et al. 2025): llama with RMS norms on the heads of q and k."""

from __future__ import annotations

from pintpot.nets._decoder import check_decoder as check
from pintpot.nets._decoder import decoder_work as work

__all__ = ["check", "work"]
