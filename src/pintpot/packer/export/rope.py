"""Llama 3's scaling of rotary frequencies: four numbers in config.json, one factor for each frequency in GGUF."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pintpot.errors import UnsupportedModel

_LOW, _HIGH = 1.0, 4.0
_ORIGINALS = tuple(1 << power for power in range(4, 21))
_CLOSE = 1e-5


def rope_factors(scaling: Mapping[str, Any], theta: float, head_dim: int) -> tuple[float, ...]:
    """What each of head_dim / 2 frequencies is divided by (Grattafiori et al. 2024)."""
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    factors = []
    for index in range(0, head_dim, 2):
        turns = original * theta ** (-index / head_dim) / (2 * math.pi)
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / (smooth + (1 - smooth) / factor))
    return tuple(factors)


def scaling_of(factors: Sequence[float], theta: float, head_dim: int) -> dict[str, Any] | None:
    """The numbers that give these factors; None where all are 1.

    Published models have low 1 and high 4. Raises UnsupportedModel for factors that no such numbers give.
    """
    if all(abs(factor - 1) < _CLOSE for factor in factors):
        return None
    for original in _ORIGINALS:
        found = {
            "rope_type": "llama3", "factor": _rounded(max(factors)), "low_freq_factor": _LOW, "high_freq_factor": _HIGH,
            "original_max_position_embeddings": original,
        }  # fmt: skip
        due = rope_factors(found, theta, head_dim)
        if all(abs(one - other) <= _CLOSE * other for one, other in zip(factors, due, strict=True)):
            return found
    raise UnsupportedModel("the factors of this model's rotary frequencies are none that config.json can tell")


def _rounded(factor: float) -> float:
    return float(round(factor)) if abs(factor - round(factor)) < _CLOSE * factor else factor
