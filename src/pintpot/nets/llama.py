"""Llama 2 and 3, SmolLM, TinyLlama (Touvron et al. 2023; Grattafiori et al. 2024)."""

from __future__ import annotations

from pintpot.nets._decoder import check_decoder as check
from pintpot.nets._decoder import decoder_work as work

__all__ = ["check", "work"]
