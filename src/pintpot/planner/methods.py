"""The methods by which a model can learn: what of it does, and in how few bits the weights are beside which it does."""

from __future__ import annotations

from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.formats import encoding
from pintpot.techniques.adapt.every_weight import EveryWeight
from pintpot.techniques.quantize.as_stored import AsStored
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.normal_float import NormalFloat
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest
from pintpot.techniques.train.fused_update import FusedUpdate

QLORA = "qlora"
METHODS = ("lora", QLORA, "full")
"""What can be learned: adapters beside weights as they are, or beside weights in 4 bits; or every weight."""
ZEROTH = "zeroth"
"""Without gradients: every weight, or adapters where not all weights fit; for who asks."""
BESIDE = "zeroth beside"
NEAREST = "qlora to nearest"
"""Where there is no room to look at what meets weights before they are rounded: NF4, as in QLoRA's paper."""
FEW_BITS = 5.0
"""A value at most, scales included, of weights that count as 4 bits."""


def ways_of(method: str, source: Form) -> tuple[str, ...]:
    """The ways in which a method (or "auto") may be carried out, in the order of preference."""
    found = {"auto": METHODS, ZEROTH: (ZEROTH, BESIDE)}.get(method, (method,))
    both = learning(QLORA, source) != learning(NEAREST, source)
    return tuple(way for one in found for way in ((one, NEAREST) if one == QLORA and both else (one,)))


def learning(way: str, source: Form) -> tuple[Step, ...]:
    """The steps of a way, without adapters: those stand beside whatever is left as it is."""
    if way == "full":
        return EveryWeight(), FusedUpdate()
    if way == ZEROTH:
        return (EveryWeight(),)
    return in_few_bits(source, gently=way == QLORA) if way in (QLORA, NEAREST) else ()


def in_few_bits(source: Form, gently: bool) -> tuple[Step, ...]:
    """Weights in 4 bits: as their file has them where that takes hardly more, for a second rounding would only harm.

    What is rounded is rounded `gently`, by what meets it, with a minimum for each group, where that can be known.
    """
    inside = [weight for weight in source.weights if weight.is_matrix and "." in weight.name]
    values = sum(weight.shape[0] * weight.shape[1] for weight in inside)
    bits = 8 * sum(weight.shape[0] * encoding(weight.source).row_bytes(weight.shape[1]) for weight in inside)
    if bits <= FEW_BITS * values:
        return (AsStored("blocks"),)
    return (RoundToNearest("blocks", 4, minimum=True), Gptq("blocks")) if gently else (NormalFloat("blocks"),)
