"""Where packs are kept: by the question that they answer, or by the plan that they were made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pintpot.meter.memory import attainable_bytes
from pintpot.model.spec import Model
from pintpot.model.store import Store
from pintpot.packer.manifest import read_manifest
from pintpot.packer.shelf import found_whole, place_for
from pintpot.planner.plan import Plan
from pintpot.planner.sensitivity import table_mark
from pintpot.units import parse_bytes, parse_seconds


def place_of_question(model: Model, asked: dict[str, Any]) -> Path:
    """Where the pack for this question is kept. What is free changes from hour to hour, so it is no part of it.

    A table of sensitivities is: it brings other plans.
    """
    amounts = {"memory": parse_bytes, "first_token": parse_seconds, "per_token": parse_seconds}
    given = {
        key: amounts.get(key, lambda same: same)(value)
        for key, value in sorted(asked.items())
        if value is not None and value is not False
    }
    question = {"model": _identity(model), "asked": given}
    table = table_mark(model.digest)
    return place_for(model.name, {**question, "sensitivities": table} if table else question)


def place_of_plan(model: Model, made: Plan) -> Path:
    return place_for(model.name, {"model": _identity(model), "steps": [step.to_json() for step in made.steps]})


def found_pack(model: Model, asked: dict[str, Any]) -> Path | None:
    """The kept pack of this question, unless it would no longer fit what is free. Raises BadPack for a damaged one."""
    folder = place_of_question(model, asked)
    if not found_whole(folder):
        return None
    manifest, _ = read_manifest(folder)
    return folder if manifest.plan.cost.memory_high <= attainable_bytes() else None


def _identity(model: Model) -> str:
    """Tells two trainings of one network apart."""
    with Store(model) as store:
        return store.sample_digest()
