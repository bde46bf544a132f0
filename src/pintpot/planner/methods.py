"""The methods by which a model can learn: what of it does, and in how few bits the weights are beside which it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pintpot.contract.form import Form
from pintpot.contract.step import Step
from pintpot.formats import encoding
from pintpot.planner.few_bits import dealt_out
from pintpot.planner.sensitivity import Sensitivities
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
BITS = 4
"""Of a code beside which adapters learn, where no other number was asked for."""
WIDTHS = (4, 5, 6, 8)
SCALES_BITS = 1.0
"""A value at most, of scales and minima beside the codes: a file whose weights take no more is left as it is."""

CORRECTION = 0.5
"""Of what makes up for errors of earlier layers: all of it fits the examples too closely (LOG.md)."""


@dataclass(frozen=True)
class FewBits:
    """What qlora makes of a model `source`: codes of so many `bits`, dealt out by its `table` where there is one."""

    source: Form
    bits: int = BITS
    table: Sensitivities | None = None

    def steps(self, gently: bool) -> tuple[Step, ...]:
        """Weights in so many bits a code: as their file has them where that takes hardly more.

        A second rounding would only harm. What is rounded is rounded `gently`, by what meets it, where that can be
        known: each matrix in a format of its own where a table says what it loses, else with a minimum for each group,
        which 8 bits need not. Either way takes as many bytes.
        """
        inside = [weight for weight in self.source.weights if weight.is_matrix and "." in weight.name]
        values = sum(weight.shape[0] * weight.shape[1] for weight in inside)
        num_bytes = sum(weight.shape[0] * encoding(weight.source).row_bytes(weight.shape[1]) for weight in inside)
        if 8 * num_bytes <= (self.bits + SCALES_BITS) * values:
            return (AsStored("blocks"),)
        nearest = RoundToNearest("blocks", self.bits, minimum=self.bits < max(WIDTHS))
        if gently:
            return self._dealt_out() or nearest, Gptq("blocks", correction=CORRECTION)
        return (NormalFloat("blocks") if self.bits == BITS else nearest,)

    def _dealt_out(self) -> Step | None:
        """8 bits lose so little that there is nothing to deal out."""
        if self.table is None or self.bits == max(WIDTHS):
            return None
        return dealt_out(self.source, self.table, self.bits + SCALES_BITS)


def ways_of(method: str, few: FewBits) -> tuple[str, ...]:
    """The ways in which a method (or "auto") may be carried out, in the order of preference."""
    found = {"auto": METHODS, ZEROTH: (ZEROTH, BESIDE)}.get(method, (method,))
    both = QLORA in found and learning(QLORA, few) != learning(NEAREST, few)
    return tuple(way for one in found for way in ((one, NEAREST) if one == QLORA and both else (one,)))


def learning(way: str, few: FewBits) -> tuple[Step, ...]:
    """The steps of a way, without adapters: those stand beside whatever is left as it is."""
    if way == "full":
        return EveryWeight(), FusedUpdate()
    if way == ZEROTH:
        return (EveryWeight(),)
    return few.steps(gently=way == QLORA) if way in (QLORA, NEAREST) else ()


def wants_table(steps: Iterable[Step]) -> bool:
    """Whether the bits of these steps would be dealt out, were it known what each weight loses."""
    steps = tuple(steps)
    alike = any(isinstance(step, RoundToNearest) and step.minimum for step in steps)
    return alike and any(isinstance(step, Gptq) for step in steps)
