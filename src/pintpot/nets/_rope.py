"""Rotary angles as a table (Su et al. 2021), with the scalings that published models use.

Linear (Chen et al. 2023, arXiv:2306.15595), YaRN (Peng et al. 2023, arXiv:2309.00071), and Llama 3.1's by wavelength.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pintpot.errors import UnsupportedModel, need

Floats = NDArray[np.float32]


POSITIONS = 128
"""The float64 angles of so many positions are made at once."""


def rope_table(
    config: Mapping[str, Any], context: int, factors: Floats | None = None, out: Floats | None = None
) -> Floats:
    """Cosines, then sines, of every position: float32 [context, rope_dim], in front of the flat `out` where given.

    `factors` [rope_dim / 2] divide the frequencies (a GGUF file stores Llama 3.1's scaling so).
    """
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    dim = round(head_dim * config.get("partial_rotary_factor", 1.0))
    base = float(config.get("rope_theta", 10000.0))
    frequencies = base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    frequencies, gain = _scaled(frequencies, base, dim, config)
    if factors is not None:
        frequencies = frequencies / factors.astype(np.float64)
    table = np.empty((context, dim), np.float32) if out is None else out[: context * dim].reshape(context, dim)
    for first in range(0, context, POSITIONS):
        stop = min(first + POSITIONS, context)
        angles = np.arange(first, stop, dtype=np.float64)[:, None] * frequencies
        table[first:stop, : dim // 2] = np.cos(angles) * gain
        table[first:stop, dim // 2 :] = np.sin(angles) * gain
    return table


def _scaled(frequencies: NDArray[np.float64], base: float, dim: int, config: Mapping[str, Any]) -> tuple[Any, float]:
    scaling: Mapping[str, Any] = config.get("rope_scaling") or {}
    need(isinstance(scaling, Mapping), f"rope_scaling is {scaling!r} and no table of settings", UnsupportedModel)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return frequencies, 1.0
    if kind == "linear":
        return frequencies / scaling["factor"], 1.0
    if kind == "llama3":
        return _llama3(frequencies, scaling), 1.0
    if kind == "yarn":
        return _yarn(frequencies, base, dim, scaling, config)
    raise UnsupportedModel(f"rope scaling {kind!r} is not read here; linear, llama3 and yarn are")


def _llama3(frequencies: NDArray[np.float64], scaling: Mapping[str, Any]) -> Any:
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (smooth + (1 - smooth) / factor)


def _yarn(
    frequencies: NDArray[np.float64], base: float, dim: int, scaling: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[Any, float]:
    factor = scaling["factor"]
    original = scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]

    def dimension(turns: float) -> float:
        return dim * log(original / (turns * 2 * pi)) / (2 * log(base))

    first = max(0, np.floor(dimension(scaling.get("beta_fast", 32.0))))
    last = min(dim - 1, np.ceil(dimension(scaling.get("beta_slow", 1.0))))
    ramp = np.clip((np.arange(dim // 2) - first) / max(last - first, 1e-3), 0.0, 1.0)
    gain = scaling.get("attention_factor") or (0.1 * log(factor) + 1.0 if factor > 1 else 1.0)
    return frequencies * (1 - ramp) + frequencies / factor * ramp, float(gain)
