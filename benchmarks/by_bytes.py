"""Packs of so many bytes: a format for each weight out of a table of sensitivities, and calibrated rounding.

What the table says is about rounding to nearest; rounding that is calibrated leaves less of it, but not where rows are
looked up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from bench import OUT, whisper
from numpy.typing import NDArray

from pintpot.budget import Budget, Workload
from pintpot.contract.step import Facet, Step
from pintpot.errors import PintpotError, need
from pintpot.formats import DENSE_FORMATS, encoding
from pintpot.formats.tiles import unpack
from pintpot.machine.null import null_machine
from pintpot.machine.spec import Machine
from pintpot.model.spec import Model
from pintpot.packer.calibrate.calibrate import preparing
from pintpot.packer.calibrate.prepared import Prepared
from pintpot.packer.pack import write_pack
from pintpot.planner.assess import assess
from pintpot.planner.bits import Allocation, Choices, Kept, Limits, allocate
from pintpot.planner.degradation import Priors
from pintpot.planner.mixtures import usual_work
from pintpot.planner.plan import Plan
from pintpot.planner.question import Question
from pintpot.planner.sensitivity import Sensitivities, table_key
from pintpot.techniques.quantize.mixed import Mixed, write_formats

LEFT = 0.2
"""Of the divergence of rounding to nearest, what GPTQ leaves."""
MEMORY_BYTES = 4_000_000_000
Floats = NDArray[np.float32]
Texts = list[list[int]]


def choices(
    model: Model,
    table: Sensitivities,
    only: Callable[[str], bool] = lambda name: True,
    *,
    left: float = 1.0,
    machine: Machine | None = None,
) -> Choices:
    """Of each matrix the formats that the table knows: nats, bytes, and on a `machine` seconds of each token.

    `left` is what rounding leaves of the table's nats wherever rows meet a weight; rows that are looked up keep all.
    """
    question = Question(model, machine or null_machine(), _budget(2, 512), Priors({}))
    work, found = usual_work(question), dict[str, list[Kept]]()
    looked_up = "embed" if any(w.name == "head" for w in question.expects.source.weights) else ""
    for weight in question.expects.source.weights:
        if weight.is_matrix and only(weight.name):
            alone = weight.name == looked_up
            for kept in DENSE_FORMATS:
                span = table.of(weight, kept)
                if span is not None and encoding(kept).fits(weight.shape[1]):
                    size = encoding(kept).packed_bytes(*weight.shape)
                    step = 0.0 if alone else work.seconds(weight, kept)[0]
                    nats = span[1] * (1.0 if alone else left)
                    found.setdefault(weight.name, []).append(Kept(kept, nats, size, token_s=step))
    return found


def at_bytes(found: Choices, num_bytes: float) -> Allocation:
    """The least divergence in so many bytes. Raises PintpotError where no choice is so small."""
    chosen = allocate(found, "nats", Limits(num_bytes=num_bytes))
    if chosen is None:
        raise PintpotError(f"no formats of the table take {num_bytes:.0f} bytes or fewer")
    return chosen


def mixed(formats: Mapping[str, str]) -> Mixed:
    return Mixed("all", write_formats(formats))


def plan_of(
    model: Model, steps: tuple[Step, ...], *, context: int, threads: int = 2, machine: Machine | None = None
) -> Plan:
    """The plan of these steps, whatever it costs in quality."""
    question = Question(model, machine or null_machine(), _budget(threads, context), Priors({}))
    return assess(question, steps)


def packed(model: Model, plan: Plan, texts: Texts) -> Path:
    """The folder of a pack below `out/packs/by-bytes`, calibrated over these texts; made where it is missing."""
    folder = _place(model, plan, texts)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_pack(model, plan, folder, texts=texts, calibrating=lambda share, what: whisper(f"  {share:.0%} {what}"))
    need(folder.is_dir(), f"{folder} was not made", PintpotError)
    return folder


def rounded(model: Model, plan: Plan, texts: Texts) -> dict[str, Floats]:
    """What calibration makes of a plan's weights, in float32; nothing is packed."""
    folder = _place(model, plan, texts)
    with preparing(model, plan, folder, texts, lambda share, what: whisper(f"  {share:.0%} {what}")) as made:
        return dict(kept_in(plan, made))


def _place(model: Model, plan: Plan, texts: Texts) -> Path:
    """Named by all that tells its bytes apart, but for the sources that make them."""
    told = json.dumps(
        [table_key(model), [step.to_json() for step in plan.steps], texts if _is_calibrated(plan) else []]
    )
    return OUT / "packs" / "by-bytes" / f"{model.name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _is_calibrated(plan: Plan) -> bool:
    return any(step.needs or step.facet in (Facet.TRANSFORM, Facet.ROUNDING) for step in plan.steps)


def kept_in(plan: Plan, made: Prepared) -> Iterator[tuple[str, Floats]]:
    """Each weight that calibration made, in float32."""
    for form in plan.form.weights:
        if form.name in made.names and form.is_matrix:
            yield form.name, unpack(made.strips(form.name, 0, form.num_strips), form.format, *form.shape)
        elif form.name in made.names:
            yield form.name, made.vector(form.name)


def _budget(threads: int, context: int) -> Budget:
    workload = Workload(context, prompt=context // 2, output=context // 2)
    return Budget(MEMORY_BYTES, workload, degradation=1e9, threads=threads, below_4_bits=True)
