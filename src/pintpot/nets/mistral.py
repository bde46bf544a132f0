"""Mistral (Jiang et al. 2023): llama with a sliding window."""

from __future__ import annotations

from pintpot.nets._decoder import check_decoder as check
from pintpot.nets._decoder import decoder_work as work

__all__ = ["check", "work"]
