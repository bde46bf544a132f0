"""For every technique there is, packs with it and without it, at equal bits: what `papers.py` measures.

What a trial is follows from what a technique changes, so one that is new has its trials by being there: a format meets
rounding to nearest in a mixture of the same bytes; rounding, transforms and columns kept apart meet formats without
them; what changes how a network is computed meets the same pack without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from by_bytes import mixed, plan_of

from pintpot.contract.form import Form, matches
from pintpot.contract.step import Facet, Step
from pintpot.errors import PintpotError
from pintpot.formats import encoding, is_lossless
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.space import build_space
from pintpot.proof.steps import OF_WEIGHTS
from pintpot.techniques import classes
from pintpot.techniques.batch.prefill_chunk import PrefillChunk
from pintpot.techniques.quantize.gptq import Gptq
from pintpot.techniques.quantize.int8_activations import Int8Activations
from pintpot.techniques.quantize.micro_scaling import MicroScaling
from pintpot.techniques.quantize.round_to_nearest import RoundToNearest

CONTEXT = 512
Steps = tuple[Step, ...]
VOCABULARY = RoundToNearest("vocabulary", 8)
FOUR_BITS: tuple[Steps, ...] = ((RoundToNearest("blocks", 4),), (MicroScaling("blocks", "mxfp4"),))
"""The formats in which rounding is tried: groups with any scale, and with a power of two."""
ROWS: tuple[Steps, ...] = ((MicroScaling("blocks", "mxfp4"), Gptq("blocks")), (RoundToNearest("blocks", 8),))
"""What changes the rows that meet weights is also tried beside GPTQ, and where little but the rows is rounded."""
FAST: Steps = (Int8Activations(), PrefillChunk(tokens=CONTEXT))
NEAREST = tuple(sorted((step.format for step in RoundToNearest.offers(None, None, None) if step.target == "blocks"),  # type: ignore[arg-type]
                       key=lambda name: encoding(name).bits))  # fmt: skip
"""Formats of rounding to nearest, the smallest first."""
COMPUTED = tuple(facet for facet in Facet if facet not in OF_WEIGHTS and facet not in (Facet.PLACE, Facet.BATCHING))


@dataclass(frozen=True)
class Trial:
    """A technique's settings in a plan, and the plan without them; `computed` says that both are judged as they run."""

    technique: str
    step: Step
    under: str
    steps: Steps
    without: Steps
    computed: bool

    @property
    def name(self) -> str:
        return f"{self.step} {self.under}".strip()


def trials(model: Model, questions: list[Question]) -> Iterator[Trial]:
    """Every trial of every technique that changes values and applies to this model."""
    for name, cls in classes().items():
        if cls.facet in OF_WEIGHTS or cls.facet in COMPUTED:
            for step in settings(cls, questions):
                made = [trial for trial in _trials(name, step, model) if _applies(trial, model)]
                yield from made
                if made and not cls.offers(model, questions[0].machine, questions[0].budget):
                    break


def settings(cls: type[Step], questions: list[Question]) -> list[Step]:
    """What a planner would try of a technique; of one that it is not offered its settings by default.

    These are for blocks, or, where they are not to be had so, for what the technique is for by itself.
    """
    offered = [
        option
        for question in questions
        for dimension in build_space(question).dimensions
        for option in dimension.options
        if isinstance(option, cls) and option.target in ("all", "blocks")
    ]
    found = list(dict.fromkeys(offered))
    if not found:
        return [cls()] if cls.facet in COMPUTED else [cls("blocks"), cls()]
    found = [step for step in found if step.target == "blocks"] or found
    # Of a mixture at several points one in the middle says what there is to say.
    return [found[len(found) // 2]] if found and found[0].key == "mixed" else found


def _trials(name: str, step: Step, model: Model) -> Iterator[Trial]:
    if step.facet == Facet.FORMAT:
        if isinstance(step, RoundToNearest):
            return
        steps = (step, *(() if step.target == "all" else (VOCABULARY,)), *FAST)
        plan = _plan(model, steps)
        touched = [w for w in plan.form.weights if w.is_matrix and matches(step.target, w.name)] if plan else []
        if plan is not None and any(not is_lossless(w.source, w.format) for w in touched):
            yield Trial(name, step, "", steps, (equal_bytes(plan.form, step.target), *FAST), False)
    elif step.facet in OF_WEIGHTS:
        rows = step.facet != Facet.ROUNDING
        for under in (*FOUR_BITS, *(ROWS if rows else ())):
            without = (*under, VOCABULARY, *FAST)
            told = " and ".join(map(_short, under))
            yield Trial(name, step, f"over {told}", (*without, step), _as_large(model, without, step), rows)
    else:
        without = (RoundToNearest("all", 8), *(one for one in FAST if one.facet != step.facet))
        yield Trial(name, step, "over sym8", (*without, step), without, True)


def _short(step: Step) -> str:
    return str(getattr(step, "format", step.name))


def _as_large(model: Model, steps: Steps, step: Step) -> Steps:
    """These steps, or as many bytes rounded to nearest where the technique takes more of them."""
    small, large = _plan(model, steps), _plan(model, (*steps, step))
    if small is None or large is None or small.form.weight_bytes == large.form.weight_bytes:
        return steps
    return (equal_bytes(large.form, "blocks"), *FAST)


def equal_bytes(form: Form, target: str) -> Step:
    """Rounding to nearest in no more bytes: two neighbouring formats, dealt out evenly over its weights."""
    own = [w for w in form.weights if w.is_matrix and (target == "all" or w.name not in ("embed", "head"))]
    most = sum(encoding(w.format).packed_bytes(*w.shape) for w in own)

    def size(name: str) -> int:
        return sum(encoding(name).packed_bytes(*w.shape) for w in own)

    fitting = [name for name in NEAREST if size(name) <= most]
    low = fitting[-1] if fitting else NEAREST[0]
    high = next((name for name in NEAREST if size(name) > most), low)
    share = (most - size(low)) / max(size(high) - size(low), 1)
    chosen, owed = {w.name: w.format for w in form.weights if w.is_matrix}, 0.0
    for weight in own:
        values = weight.shape[0] * weight.shape[1]
        owed += share * values
        chosen[weight.name] = high if owed >= values else low
        owed -= values if chosen[weight.name] == high else 0
    return mixed(chosen)


def _applies(trial: Trial, model: Model) -> bool:
    return all(_plan(model, steps) is not None for steps in (trial.steps, trial.without))


def _plan(model: Model, steps: Steps, machine: Machine | None = None) -> Plan | None:
    try:
        return plan_of(model, steps, context=CONTEXT, machine=machine)
    except PintpotError:
        return None
