"""PROOF: what each step of a plan does to quality: networks in which only some of the steps were taken.

Weight steps run in float32 arithmetic, so that nothing but the weights differs. Steps that change how a network is
computed (activations, cache) are imitated by the reference, on the pack's weights or on the unpacked ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pintpot.contract.form import CacheForm, Form, WeightForm, matches, source_form
from pintpot.contract.step import CALIBRATED, Facet, Step
from pintpot.formats.registry import is_lossless
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.manifest import Manifest
from pintpot.planner.plan import Plan
from pintpot.proof.reference import Network, source_values
from pintpot.proof.strips import Dequantized, converted_strips, packed_strips, packed_vector

OF_WEIGHTS = CALIBRATED | {Facet.SPARSITY, Facet.FORMAT, Facet.ADAPT}
"""Facets of steps that change values of weights."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A network that took `steps`; `packed` says that its weights are the pack's, and so took all weight steps."""

    steps: tuple[Step, ...]
    packed: bool = False


ALONE = Variant((), packed=True)
"""The weights of the pack, and nothing else of it."""


@dataclass(frozen=True, slots=True)
class Stride:
    """Steps that can only be told together (mostly one), what they are alone, and the network after them."""

    steps: tuple[Step, ...]
    alone: Variant | None
    after: Variant


def strides(plan: Plan) -> tuple[Stride, ...]:
    """The steps of a plan that change values, in the order in which they are added up.

    Steps that need statistics are not taken again: what they do together is the way from nearest rounding to the pack.
    """
    changing = [step for step in plan.steps if _changes_values(step, plan.form)]
    weights = [step for step in changing if step.facet in OF_WEIGHTS]
    plain = [step for step in weights if not _is_calibrated(step)]
    calibrated = tuple(step for step in weights if _is_calibrated(step))
    found = [Stride((s,), Variant((s,)), Variant(tuple(plain[: i + 1]))) for i, s in enumerate(plain)]
    if calibrated:
        found.append(Stride(calibrated, None, ALONE))
    elif found:
        found[-1] = replace(found[-1], after=ALONE)
    computed = [step for step in changing if step.facet not in OF_WEIGHTS]
    for index, step in enumerate(computed):
        found.append(Stride((step,), Variant((step,)), Variant(tuple(computed[: index + 1]), packed=True)))
    return tuple(found)


def network(
    variant: Variant, model: Model, store: Store, folder: Path, manifest: Manifest, num_words: int = 0
) -> Network:
    """The network of a variant: words of answers are the last `num_words` of each text."""
    plan = manifest.plan
    form = variant_form(model, plan, variant)
    weights = dict(_packed(folder, manifest) if variant.packed else _partly_converted(model, store, form, variant))
    taken = tuple(step for step in plan.steps if variant.packed and step.facet in OF_WEIGHTS) + variant.steps
    return Network(model, store, form, weights, taken, num_words)


def variant_form(model: Model, plan: Plan, variant: Variant) -> Form:
    """The plan's weight formats, with activations and cache as the variant's own steps have them, else in float32."""
    every = some = source_form(model)
    for step in plan.steps:
        if step.facet != Facet.PLACE:
            every = step.promise(every)
        if step in variant.steps:
            some = step.promise(some)
    cache = some.cache if some.cache.format != CacheForm().format else replace(some.cache, format="f32")
    return replace(every, activation=some.activation, cache=cache, ring=None)


def _changes_values(step: Step, form: Form) -> bool:
    if step.key is not None or (step.facet in OF_WEIGHTS and step.facet != Facet.FORMAT):
        return True
    if step.facet != Facet.FORMAT:
        return False
    touched = [weight for weight in form.weights if weight.is_matrix and matches(step.target, weight.name)]
    return any(not is_lossless(weight.source, weight.format) for weight in touched)


def _is_calibrated(step: Step) -> bool:
    return bool(step.needs) or step.facet in CALIBRATED


def _packed(folder: Path, manifest: Manifest) -> Iterator[tuple[str, Any]]:
    for form in manifest.plan.form.weights:
        if form.is_matrix:
            yield form.name, Dequantized(form, packed_strips(folder, manifest, form))
        else:
            yield form.name, packed_vector(folder, manifest, form)


def _partly_converted(model: Model, store: Store, form: Form, variant: Variant) -> Iterator[tuple[str, Any]]:
    forms = {weight.name: weight.in_grid for weight in form.weights}
    for weight in model.part("language").weights():
        step = _converting(forms[weight.name], variant)
        if step is None:
            yield weight.name, source_values(store, weight)
        else:
            strips = converted_strips(store, weight, forms[weight.name], step)
            yield weight.name, Dequantized(forms[weight.name], strips)


def _converting(form: WeightForm, variant: Variant) -> Step | None:
    """The step that writes a weight, as the packer chooses it; None for one that stays as it is."""
    formats = [step for step in variant.steps if step.facet == Facet.FORMAT and matches(step.target, form.name)]
    return formats[-1] if form.is_matrix and formats else None
