"""Pintpot's packs for a contest: planned here, packed once, with the figures that limits are counted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import OUT, code_digest, probed_machine
from counting import Shape, seen_positions, weight_bytes

from pintpot import api
from pintpot.contract.step import Step
from pintpot.meter.memory import attainable_bytes
from pintpot.packer.manifest import read_manifest
from pintpot.planner.allocate import place
from pintpot.planner.assess import Bench, assess
from pintpot.planner.defaults import make_budget
from pintpot.planner.degradation import shipped_priors
from pintpot.planner.question import Question
from pintpot.planner.search import rank
from pintpot.planner.space import build_space
from pintpot.techniques import classes
from pintpot.techniques.quantize.brain_prompts import BrainPrompts
from pintpot.techniques.quantize.int8_activations import Int8Activations

MOST_CHUNK = 512


def pack_as_stored(
    model: Path, *, context: int, prompt: int, output: int, batch: int, cache: str, planes: tuple[int, int] | None
) -> Path:
    """The folder of a pack of the weights as they are; what an earlier start of the same sources left is used.

    `planes` are those of int8 rows in prefill and in decode; None: as the planner chooses among what is offered.
    """
    kind = "planned" if planes is None else "{}-{}".format(*planes)
    name = f"{model.stem}-{context}x{batch}-{cache.replace(' ', '')}-{kind}-{code_digest()}"
    folder = OUT / "packs" / "peers" / name
    if folder.exists():
        return folder
    named: list[tuple[str, dict[str, Any]]] = [
        ("AsStored", {"target": "blocks"}), ("AsStored", {"target": "vocabulary"}),
        ("PrefillChunk", {"tokens": min(MOST_CHUNK, context * batch)}),
    ]  # fmt: skip
    named += [("EightBitCache", {})] * (cache == "8 bits")
    machine, described = probed_machine(), api.describe(model)
    budget = make_budget(
        described,
        machine,
        attainable_bytes(),
        context=context,
        prompt=prompt,
        output=output,
        batch=batch,
        degradation=100.0,
    )
    steps: list[Step] = [classes()[what](**knobs) for what, knobs in named]
    question = Question(described, machine, budget, shipped_priors())
    offers = (*Int8Activations.offers(described, machine, budget), *BrainPrompts.offers(described, machine, budget))
    if planes is not None:
        offers = (Int8Activations(prefill=planes[0], decode=planes[1]),)
    plans = [assess(question, (*steps, rows)) for rows in offers]
    folder.parent.mkdir(parents=True, exist_ok=True)
    return api.pack(described, min(plans, key=lambda plan: rank(plan, budget.prefer)), folder)


def pack_streamed(model: Path, *, memory: int, context: int, prompt: int, output: int, chosen: bool) -> Path:
    """The folder of a pack for so much memory: of the weights as they are, or `chosen` by the planner's defaults."""
    folder = OUT / "packs" / "peers" / f"{model.stem}-in-{memory}-{'chosen' if chosen else 'same'}-{code_digest()}"
    if folder.exists():
        return folder
    machine, described = probed_machine(), api.describe(model)
    load: dict[str, Any] = {"context": context, "prompt": prompt, "output": output}
    folder.parent.mkdir(parents=True, exist_ok=True)
    if chosen:
        return api.pack(described, api.plan(described, machine=machine, memory=memory, **load), folder)
    budget = make_budget(described, machine, attainable_bytes(), memory_bytes=memory, degradation=100.0, **load)
    named: list[tuple[str, dict[str, Any]]] = [
        ("AsStored", {"target": "blocks"}), ("AsStored", {"target": "vocabulary"}), ("PrefillChunk", {"tokens": 16}),
    ]  # fmt: skip
    named += [("Int8Activations", {"prefill": 2, "decode": 2})] * (model.suffix == ".gguf")
    question = Question(described, machine, budget, shipped_priors())
    bench, steps = Bench(question), [classes()[what](**knobs) for what, knobs in named]
    placed = place(bench, bench.draft(tuple(steps)), build_space(question).places, memory)
    plan = bench.plan(placed.price(bench))
    return api.pack(described, plan, folder)


def streamed_bytes(folder: Path) -> float:
    """Bytes that each token of the answer brings from the disk."""
    manifest, _ = read_manifest(folder)
    return weight_bytes(folder, manifest)[1]


def figures(folder: Path) -> dict[str, float]:
    """Bytes that a step of decoding reads, and multiply-adds of a prompt, by number format."""
    manifest, _ = read_manifest(folder)
    plan = manifest.plan
    shape, load = Shape.of(plan.config), plan.budget.workload
    positions = seen_positions(load.prompt, load.output, 0, 0) / load.output
    weights, _ = weight_bytes(folder, manifest)
    seen = seen_positions(0, load.prompt, 0, 0)
    attention = shape.multiply_adds(0, 0, seen)
    activation, planes = plan.form.activation, {"int8": 1.0, "int8x2": 2.0}
    int8 = (shape.multiply_adds(load.prompt, 1, seen) - attention) * planes[activation.prefill]
    # Attention's pairs of 16 bits run at half the peak of 8 bits.
    rounded = activation.prefill == "int8"
    cache_bytes = shape.cache_bytes(load.batch * positions, plan.form.cache.format)
    return {
        "step_bytes": weights + cache_bytes, "weight_bytes": weights,
        "int8": int8 + 2 * attention if rounded else int8, "float": 0.0 if rounded else attention,
        "threads": float(plan.threads), "decode_planes": planes[activation.decode],
    }  # fmt: skip
