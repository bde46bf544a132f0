"""What is planned and packed for a server, in processes apart: the pack that it opens, and what other budgets bring."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.contract.step import Facet
from pintpot.errors import DoesNotFit

if TYPE_CHECKING:
    from pintpot.budget import Workload
    from pintpot.model.spec import Model
    from pintpot.planner.plan import Plan

Progress = Callable[[float, str], None]
BATCHES = (32, 16, 8, 4, 2, 1)
"""Sequences side by side that are weighed where nobody asked for a number."""
LENDING_GAIN, PRESSED = 1.05, 0.9
"""What a shared cache has to bring, for whoever is stopped takes time; and how full a budget is that it presses on."""
NUM_BUDGETS = 9


def best_batch(model: Model, asked: dict[str, Any], progress: Progress | None = None) -> dict[str, Any]:
    """How many sequences side by side give most tokens a second in all, at the bad end: `batch`, and `lending`.

    That sequences share fewer pages than their contexts have is weighed where the cache presses on the budget, and has
    to bring more than `LENDING_GAIN`. Raises DoesNotFit for none.
    """
    from pintpot.api import plan

    found: list[tuple[float, int, dict[str, Any]]] = []
    refused: DoesNotFit | None = None
    made: Plan | None = None
    for done, (number, lending) in enumerate(product(BATCHES, (False, True))):
        if progress is not None:
            progress(done / (2 * len(BATCHES)), "weighing how many at once")
        if lending and made is not None and not _presses(made):
            continue
        way, made = {"batch": number, "lending": lending}, None
        try:
            made = plan(model, **{**asked, **way})
        except DoesNotFit as error:
            refused = error
            continue
        if bool(made.form.cache.lent) == lending:
            gain = LENDING_GAIN if lending else 1.0
            found.append((made.cost.stage("decode").tokens_per_s.low / gain, number, way))
    if not found and refused is not None:
        raise refused
    return max(found, key=lambda one: one[:2])[2]


def _presses(made: Plan) -> bool:
    """Whether a smaller cache could bring anything: weights are read from disk, or the budget is nearly used up."""
    return made.form.ring is not None or made.cost.memory_high > PRESSED * made.budget.memory_bytes


def plans_of(folder: Path) -> list[dict[str, Any]]:
    """What other memory budgets would bring to a pack's question, from the smallest that would do to twice its own.

    Raises BadInput where the model that it was made from is gone.
    """
    from pintpot.api import plan
    from pintpot.packer.manifest import read_manifest
    from pintpot.proof.source import source_model
    from pintpot.server.admit import SERVER_BYTES

    manifest, _ = read_manifest(folder)
    made, model = manifest.plan, source_model(manifest)
    budget = made.budget
    low = max(1, made.smallest_bytes or made.cost.memory_high)
    high = 2 * max(made.cost.memory_high, low)
    plans = []
    for index in range(NUM_BUDGETS):
        memory = round(low * (high / low) ** (index / (NUM_BUDGETS - 1)))
        try:
            one = plan(
                model, memory=memory, degradation=budget.degradation, prefer=budget.prefer, threads=made.threads,
                **_asked_again(model, budget.workload),
            )  # fmt: skip
        except DoesNotFit as error:
            plans.append({"memory": memory + SERVER_BYTES, "why": str(error)})
            continue
        plans.append({
            "memory": memory + SERVER_BYTES,
            **_speed(one),
            "degradation": [one.degradation.low, one.degradation.high],
            "binds": one.cost.stages[-1].binds,
            "weights": ", ".join(str(step) for step in one.steps if step.facet in (Facet.FORMAT, Facet.PLACE)),
        })  # fmt: skip
    return plans


def _asked_again(model: Model, load: Workload) -> dict[str, Any]:
    """A workload in the words of a question."""
    if model.language is None:
        return {"output": load.output} if load.task == "denoise" else {}
    asked = {"context": load.context, "batch": load.batch, "prompt": load.prompt - load.given, "output": load.output}
    return {**asked, "images": load.pictures // load.batch} if load.pictures else asked


def _speed(made: Plan) -> dict[str, list[float]]:
    """Words and the wait for the first of them, or the whole of one answer."""
    if made.budget.workload.task != "chat":
        return {"answer_s": [made.cost.total_s.low, made.cost.total_s.high]}
    decode, first = made.cost.stages[-1].tokens_per_s, made.cost.first_token_s
    return {"tokens_per_s": [decode.low, decode.high], "first_token_s": [first.low, first.high]}


def _prepare(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from pintpot.api import pack
    from pintpot.packer.place import found_asked
    from pintpot.planner.guessing import OFFERED
    from pintpot.runtime.describing import shaped

    if "plans_of" in request:
        os.nice(10)  # the server goes first
        return {"plans": plans_of(Path(request["plans_of"]))}
    model, asked = shaped(request["model"], request["asked"], progress)
    if model.language is None:
        # It was recorded for so many rows; one more request is one more call.
        return {"folder": str(found_asked(model, asked) or pack(model, progress=progress, **asked))}
    asked["guesses"] = asked.get("guesses", OFFERED)
    batch, lent = asked.pop("batch", None), asked.pop("lending", False)
    every = [(batch, lent)] if batch else product(BATCHES, (False, True))
    ways = [{"batch": number, "lending": lending} for number, lending in every]
    for way in ways:
        folder = found_asked(model, {**asked, **way})
        if folder is not None:
            return {"folder": str(folder)}
    best = ways[0] if len(ways) == 1 else best_batch(model, asked, progress)
    return {"folder": str(pack(model, progress=progress, **{**asked, **best}))}


if __name__ == "__main__":
    from pintpot.packer.apart import serve as answer

    answer(_prepare)
