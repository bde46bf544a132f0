"""Mixtral (Jiang et al. 2024, arXiv:2401.04088): mistral whose tokens meet some of several feed-forward networks.

How many there are, and how many a token meets, stands in the configuration; the softmax is over those it meets.
"""

from __future__ import annotations

from pintpot.nets._decoder import check_decoder as check
from pintpot.nets._decoder import decoder_work as work

__all__ = ["check", "work"]
