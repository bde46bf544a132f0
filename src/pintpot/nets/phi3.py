"""Phi-3, 3.5 and 4 (Abdin et al. 2024): llama whose files hold q, k and v in one matrix, gate and up in another.

They are told apart when the model is described (`pintpot.model.fused`), so the network itself has nothing of its own.
"""

from __future__ import annotations

from pintpot.nets._decoder import check_decoder as check
from pintpot.nets._decoder import decoder_work as work

__all__ = ["check", "work"]
