"""Bits beside which adapters learn, dealt out among the matrices of the blocks: where they buy most, so many a value.

What is to be small is what the whole model loses (Malinovskii et al. 2024, arXiv:2411.17525), by its own table of
sensitivities. That one is about rounding to nearest; compensated rounding leaves of some roles far less than of others.
"""

from __future__ import annotations

from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.step import Step
from pintpot.formats import DENSE_FORMATS, encoding, has_grid
from pintpot.planner.bits import Kept, Limits, allocate
from pintpot.planner.sensitivity import Sensitivities
from pintpot.techniques.quantize.mixed import Mixed, write_formats

LEFT = {"q": 0.05, "k": 0.05, "v": 0.025, "o": 0.1, "gate": 0.22, "up": 0.2, "down": 0.14}
"""Of a role's nats in 4 bits with a minimum, to nearest by the table, what was found after GPTQ (LOG.md): what q, k and
v err for the mean of their inputs adds up over words, and compensation takes just that away."""
LEFT_OTHERS = 0.2
LEAST_BITS = 4.0
"""A value: with less, codes have 3 bits."""


def dealt_out(source: Form, table: Sensitivities, bits: float) -> Step | None:
    """The formats of the blocks' matrices with the least loss in so many bits a value, scales and all, on average.

    None where the table lacks a weight, or nothing is so small.
    """
    choices: dict[str, list[Kept]] = {}
    values = 0
    for weight in source.weights:
        if weight.is_matrix and matches("blocks", weight.name):
            choices[weight.name] = _choices(weight, table)
            values += weight.shape[0] * weight.shape[1]
    if not choices or not all(choices.values()):
        return None
    found = allocate(choices, "nats", Limits(num_bytes=bits * values / 8))
    return None if found is None else Mixed("blocks", write_formats(found.formats))


def _choices(weight: WeightForm, table: Sensitivities) -> list[Kept]:
    """What one matrix may be kept in, and what it loses there and takes."""
    left, found = LEFT.get(weight.role, LEFT_OTHERS), []
    for name in DENSE_FORMATS:
        kept = encoding(name)
        span = table.of(weight, name) if has_grid(name) and kept.bits >= LEAST_BITS else None
        if span is not None and kept.fits(weight.shape[1]):
            found.append(Kept(name, left * span[1], kept.packed_bytes(*weight.shape)))
    return found
