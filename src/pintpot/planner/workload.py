"""The cost of a workload: prompts in, answers out, the opening of the pack, and its making."""

from __future__ import annotations

from pintpot.contract.form import Weights
from pintpot.planner.cost import ZERO, Cost, Holder, Span, StageCost
from pintpot.planner.price import NO_RING, Prices

STARTING_S = Span(0.05, 0.1, 0.5)
"""What opening a pack takes beside reading its weights: manifest, tokenizer, binding. At best they go side by side."""


def price_workload(
    stages: tuple[StageCost, ...],
    weights: Weights,
    ram_bytes: int,
    source_bytes: int,
    prices: Prices,
    holders: tuple[Holder, ...],
    page_bytes: int = 0,
) -> Cost:
    """Stages and holders, with the opening and making of the pack: source read, weights converted, pack written.

    `page_bytes` are those of a page of the cache that may be moved to the disk.
    """
    opening = _read(prices, ram_bytes) + STARTING_S
    making = _read(prices, weights.num_bytes + source_bytes) + _converting(prices, weights)
    moving = _read(prices, page_bytes)
    return Cost(holders, stages, opening, making, pack_bytes(weights.num_bytes), page_s=moving)


def pack_bytes(weight_bytes: int) -> int:
    """Disk that a pack takes: weights, their padding to whole reads, and a manifest with a tokenizer beside them."""
    return round(weight_bytes * 1.002) + 8_000_000


def _read(prices: Prices, num_bytes: int) -> Span:
    return prices.rates.disk(num_bytes, NO_RING.slot_bytes, NO_RING.in_flight)


def _converting(prices: Prices, weights: Weights) -> Span:
    """Seconds to round or permute every weight into its format, on one thread."""
    return sum((prices.rates.converting(name, count) for name, count in weights.num_values.items()), ZERO)
