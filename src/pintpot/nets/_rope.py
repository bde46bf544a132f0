"""Rotary angles as a table (Su et al. 2021), with the scalings that published models use.

Linear (Chen et al. 2023, arXiv:2306.15595), YaRN (Peng et al. 2023, arXiv:2309.00071), LongRoPE within the original
context (Ding et al. 2024, arXiv:2402.13753), and Llama 3.1's by wavelength.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor, inf, log, pi
from typing import TYPE_CHECKING, Any

from pintpot._native import rope_table as fill
from pintpot.errors import UnsupportedModel, need

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray
    from typing_extensions import Buffer


def rope_table(config: Mapping[str, Any], context: int, factors: NDArray[float32] | None = None) -> NDArray[float32]:
    """Cosines, then sines, of every position: float32 [context, rope_dim].

    `factors` [rope_dim / 2] divide the frequencies (a GGUF file stores Llama 3.1's scaling so, and LongRoPE's).
    Raises UnsupportedModel for scalings that are not computed here, and for positions past LongRoPE's original ones.
    """
    import numpy as np

    table = np.empty((context, _rope_dim(config)), np.float32)
    fill_rope_table(table.data, config, context, None if factors is None else factors.tolist())
    return table


def rope_tables(
    config: Mapping[str, Any], context: int, factors: NDArray[float32] | None = None
) -> dict[str, NDArray[float32]]:
    """Every table of a network, by the buffer that its attention reads."""
    return {name: rope_table(own, context, factors) for name, own in rope_configs(config).items()}


def rope_configs(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The buffers that hold rotary tables, and the configuration that each is made of.

    Layers that see only a window may turn by a base of their own, without scaling (`rope_local_base_freq`).
    """
    found: dict[str, Mapping[str, Any]] = {"rope": config}
    local = config.get("rope_local_base_freq")
    if local is not None:
        found["rope_local"] = {**config, "rope_theta": local, "rope_scaling": None}
    return found


def fill_rope_table(
    out: Buffer, config: Mapping[str, Any], context: int, factors: Sequence[float] | None = None
) -> None:
    """The same table at the beginning of a buffer."""
    dim, base = _rope_dim(config), float(config.get("rope_theta", 10000.0))
    need(0 < base < inf, f"rope_theta is {base:g}, and has to be above 0", UnsupportedModel)
    _check_length(config, context)
    frequencies, gain = _scaled([base ** (-index / dim) for index in range(0, dim, 2)], base, dim, config)
    if factors is not None:
        frequencies = [frequency / factor for frequency, factor in zip(frequencies, factors, strict=True)]
    fill(out, context, frequencies, gain)


def _rope_dim(config: Mapping[str, Any]) -> int:
    head_dim: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return round(head_dim * float(config.get("partial_rotary_factor", 1.0)))


def _scaled(frequencies: list[float], base: float, dim: int, config: Mapping[str, Any]) -> tuple[list[float], float]:
    scaling: Mapping[str, Any] = config.get("rope_scaling") or {}
    need(isinstance(scaling, Mapping), f"rope_scaling is {scaling!r} and no table of settings", UnsupportedModel)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return frequencies, 1.0
    if kind == "linear":
        return [frequency / scaling["factor"] for frequency in frequencies], 1.0
    if kind == "llama3":
        return [_llama3(frequency, scaling) for frequency in frequencies], 1.0
    if kind == "yarn":
        return _yarn(frequencies, base, dim, scaling, config)
    if kind == "longrope":
        short = scaling.get("short_factor") or [1.0] * len(frequencies)
        return [f / factor for f, factor in zip(frequencies, short, strict=True)], float(scaling["attention_factor"])
    raise UnsupportedModel(f"rope scaling {kind!r} is not read here; linear, llama3, yarn and longrope are")


def _check_length(config: Mapping[str, Any], context: int) -> None:
    scaling = config.get("rope_scaling")
    if isinstance(scaling, Mapping) and scaling.get("rope_type") == "longrope":
        most = scaling["original_max_position_embeddings"]
        why = f"{context} positions; past {most} LongRoPE turns all keys by other factors, which does not run here"
        need(context <= most, why, UnsupportedModel)


def _llama3(frequency: float, scaling: Mapping[str, Any]) -> float:
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * pi)
    smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
    return float(frequency * (smooth + (1 - smooth) / factor))


def _yarn(
    frequencies: list[float], base: float, dim: int, scaling: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[list[float], float]:
    factor = scaling["factor"]
    original = scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]

    def dimension(turns: float) -> float:
        return dim * log(original / (turns * 2 * pi)) / (2 * log(base))

    first = max(0, floor(dimension(scaling.get("beta_fast", 32.0))))
    last = min(dim - 1, ceil(dimension(scaling.get("beta_slow", 1.0))))
    width = max(last - first, 1e-3)
    ramps = [min(max((index - first) / width, 0.0), 1.0) for index in range(dim // 2)]
    gain = scaling.get("attention_factor") or (0.1 * log(factor) + 1.0 if factor > 1 else 1.0)
    mixed = [f * (1 - ramp) + f / factor * ramp for f, ramp in zip(frequencies, ramps, strict=True)]
    return mixed, float(gain)
