"""How much worse a plan's answers are expected to be, before anybody measured that plan.

Priors are mean KL divergences in nats per token for one change at a time, measured on a small trained model by
`benchmarks/priors.py`; a plan's is the sum of its steps', low..high, for answers and for prompts. Where the model has
a table of sensitivities, what formats cost is the sum over its own weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pintpot.contract.form import Form
from pintpot.contract.step import Facet, Step
from pintpot.errors import NotApplicable, need
from pintpot.planner.plan import Degradation
from pintpot.planner.sensitivity import Nats, Sensitivities

UNKNOWN = (0.0, 100.0)
"""Nobody measured this change anywhere: anything may come of it."""


@dataclass(frozen=True)
class Priors:
    """KL divergence low..high of each kind of change, by `Step.key`."""

    spans: Mapping[str, tuple[float, float]]

    def of(self, key: str | None) -> tuple[float, float]:
        return (0.0, 0.0) if key is None else self.spans.get(key, UNKNOWN)


@cache
def shipped_priors() -> Priors:
    """The table that comes with the package."""
    text = files("pintpot.planner").joinpath("priors.json").read_text()
    return Priors({key: (low, high) for key, (low, high) in json.loads(text)["spans"].items()})


def steps_key(steps: Iterable[Step]) -> str:
    """Identifies what of a plan changes values: the steps that cost quality, in order."""
    return "; ".join(str(step) for step in steps if step.key is not None or step.remains != (1.0, 1.0))


@dataclass(frozen=True)
class Expectations:
    """What each step is expected to cost one model: by its table of sensitivities, where it has one, or by priors."""

    priors: Priors
    table: Sensitivities | None
    source: Form

    def of(self, step: Step | None) -> Nats:
        """For the words of answers, low..high."""
        if step is None:
            return (0.0, 0.0)
        return self.summed(step) or self.priors.of(step.key)

    def of_prompts(self, step: Step) -> Nats:
        """For the words of a prompt."""
        return self.summed(step) or self.priors.of(step.prefill_key)

    def summed(self, step: Step) -> Nats | None:
        """The sum over the model's own weights; None without a table, or where it lacks one of them."""
        if self.table is None or step.facet != Facet.FORMAT:
            return None
        return self.table.span(step, self.source)


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
        need(
            bits >= 4 or below_4_bits or own,
            f"{bits} bits rest on a prior alone; ask for it with --below-4-bits",
            NotApplicable,
        )
    left = remaining(steps)
    low, high = _sum(_share(known.of(step), step, left) for step in steps)
    prefill_low, prefill_high = _sum(_share(known.of_prompts(step), step, left) for step in steps)
    return Degradation(low, high, False, prefill_low, prefill_high, summed=summed)


def remaining(steps: Iterable[Step | None]) -> Nats:
    """What share of the formats' degradation these steps leave together, low..high."""
    low, high = 1.0, 1.0
    for step in steps:
        if step is not None:
            low, high = low * step.remains[0], high * step.remains[1]
    return low, high


def _share(span: Nats, step: Step, left: Nats) -> Nats:
    return (span[0] * left[0], span[1] * left[1]) if step.facet == Facet.FORMAT else span


def _sum(spans: Iterable[tuple[float, float]]) -> tuple[float, float]:
    found = list(spans)
    return sum(low for low, _ in found), sum(high for _, high in found)
