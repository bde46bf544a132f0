"""How much worse a plan's answers are expected to be, before anybody measured that plan.

Priors are mean KL divergences in nats per token for one change at a time, measured on a small trained model by
`benchmarks/priors.py`; a plan's is the sum of its steps', low..high, for answers and for prompts. Where the model has
a table of sensitivities, what formats cost is the sum over its own weights. Both are about rounding to nearest: of
each weight the steps that round more gently leave a share. What proofs of this model found corrects the sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from pintpot.contract.form import Form, WeightForm, matches
from pintpot.contract.step import CALIBRATED, Facet, Step
from pintpot.errors import NotApplicable
from pintpot.formats import is_lossless
from pintpot.planner.plan import COSINE, NATS, Degradation
from pintpot.planner.sensitivity import Nats, Sensitivities, share

UNKNOWN = (0.0, 100.0)
"""Nobody measured this change anywhere: anything may come of it."""
FOUND_SPREAD = 1.15
"""How far what proofs found of a sum may be off for other formats of the same weights, to either side."""


@dataclass(frozen=True)
class Priors:
    """KL divergence low..high of each kind of change, by `Step.key`."""

    spans: Mapping[str, tuple[float, float]]
    unit: str = NATS

    def of(self, key: str | None) -> tuple[float, float]:
        return (0.0, 0.0) if key is None else self.spans.get(key, UNKNOWN)


@cache
def shipped_priors(kind: str = "llm") -> Priors:
    """The table that comes with the package, for models of words or for modules."""
    name, unit = ("priors_of_modules.json", COSINE) if kind == "module" else ("priors.json", NATS)
    text = files("pintpot.planner").joinpath(name).read_text()
    return Priors({key: (low, high) for key, (low, high) in json.loads(text)["spans"].items()}, unit)


def steps_key(steps: Iterable[Step]) -> str:
    """Identifies what of a plan changes values: the steps that cost quality, in order."""
    return "; ".join(str(step) for step in steps if step.key is not None or step.facet in CALIBRATED)


def gentler(steps: Iterable[Step | None]) -> tuple[Step, ...]:
    """Of these steps those that make rounding do less harm."""
    return tuple(step for step in steps if step is not None and step.facet in CALIBRATED)


def rounding_key(steps: Iterable[Step | None]) -> str:
    """Identifies how a plan rounds, whatever its formats; "" is to nearest."""
    return _told(gentler(steps))


@cache
def _told(steps: tuple[Step, ...]) -> str:
    return "; ".join(map(str, steps))


@dataclass(frozen=True)
class Expectations:
    """What each step is expected to cost one model: by its table of sensitivities, where it has one, or by priors.

    `proved` is what proofs of this model found over the middle of what its table had said, by `rounding_key`.
    """

    priors: Priors
    table: Sensitivities | None
    source: Form
    proved: Mapping[str, Nats] = field(default_factory=dict)
    _known: dict[tuple[Step, tuple[Step, ...], str], Nats] = field(default_factory=dict, repr=False, compare=False)
    _promised: dict[Step, Form] = field(default_factory=dict, repr=False, compare=False)

    def promised(self, step: Step) -> Form:
        """The form of the model after nothing but this step."""
        found = self._promised.get(step)
        if found is None:
            found = self._promised[step] = step.promise(self.source)
        return found

    def of(self, step: Step | None, gentle: tuple[Step, ...] = ()) -> Nats:
        """For the words of answers, low..high, where the steps of `gentle` round what this one promises."""
        return (0.0, 0.0) if step is None else self._of(step, gentle, step.key)

    def of_prompts(self, step: Step, gentle: tuple[Step, ...] = ()) -> Nats:
        """For the words of a prompt."""
        return self._of(step, gentle, step.prefill_key)

    def summed(self, step: Step, gentle: tuple[Step, ...] = ()) -> Nats | None:
        """The sum over the model's own weights; None without a table, or where it lacks one of them."""
        if self.table is None or step.facet != Facet.FORMAT:
            return None
        return self.table.span(step, self.promised, gentle)

    def of_weight(self, weight: WeightForm, kept: str, span: Nats, gentle: tuple[Step, ...]) -> Nats:
        """What of a weight's span in the table a plan with it in this format is expected to lose."""
        if not span[1]:
            return span
        left = share(
            gentle, WeightForm(weight.name, weight.shape, weight.source, kept, weight.ram_rows, True, weight.experts)
        )
        return corrected((span[0] * left[0], span[1] * left[1]), self.proved.get(rounding_key(gentle)))

    def _of(self, step: Step, gentle: tuple[Step, ...], key: str | None) -> Nats:
        if step.facet != Facet.FORMAT:
            return self.priors.of(key)
        asked = (step, gentle, key or "")
        if asked not in self._known:
            self._known[asked] = self._of_formats(step, gentle, key)
        return self._known[asked]

    def _of_formats(self, step: Step, gentle: tuple[Step, ...], key: str | None) -> Nats:
        own = self.summed(step, gentle)
        if own is not None:
            return corrected(own, self.proved.get(rounding_key(gentle)))
        low, high = self.priors.of(key)
        left = [
            share(gentle, weight)
            for weight in self.promised(step).weights
            if weight.is_matrix and matches(step.target, weight.name) and not is_lossless(weight.source, weight.format)
        ]
        least, most = min((one[0] for one in left), default=1.0), max((one[1] for one in left), default=1.0)
        return low * least, high * most


def corrected(span: Nats, found: Nats | None) -> Nats:
    """A sum over weights as proofs found such sums to be, a little wider: they were about other formats."""
    if found is None:
        return span
    middle = (span[0] + span[1]) / 2
    return middle * found[0] / FOUND_SPREAD, middle * found[1] * FOUND_SPREAD


def expected(
    steps: tuple[Step, ...], known: Expectations, measured: Mapping[str, Degradation], below_4_bits: bool
) -> Degradation:
    """What these steps cost in quality. Raises NotApplicable for under 4 bits that nobody measured or asked for."""
    found = measured.get(steps_key(steps)) if measured else None
    if found is not None:
        return found
    summed = False
    for step in steps:
        own = known.summed(step) is not None
        summed |= own
        bits = getattr(step, "bits", 8)
        if bits < 4 and not (below_4_bits or own):
            raise NotApplicable(f"{bits} bits rest on a prior alone; ask for it with --below-4-bits")
    gentle = gentler(steps)
    low, high = _sum(known.of(step, gentle) for step in steps)
    prefill_low, prefill_high = _sum(known.of_prompts(step, gentle) for step in steps)
    return Degradation(low, high, False, prefill_low, prefill_high, summed=summed, unit=known.priors.unit)


def _sum(spans: Iterable[tuple[float, float]]) -> tuple[float, float]:
    found = list(spans)
    return sum(low for low, _ in found), sum(high for _, high in found)
