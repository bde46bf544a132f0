"""Where the pack for a question, or for a plan that was made by hand, is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.packer.shelf import found_whole, identity, place_for
from pintpot.units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from pintpot.model.spec import Model
    from pintpot.planner.plan import Plan


def place_asked(model: Model, asked: dict[str, Any]) -> Path:
    """For a question. What is free changes from hour to hour, so it is no part of it.

    A table of sensitivities is: it brings other plans.
    """
    from pintpot.planner.sensitivity import table_mark

    meant: dict[str, Callable[[Any], Any]] = {
        "memory": parse_bytes, "first_token": parse_seconds, "per_token": parse_seconds, "text": _said,
        "pictures": _shown,
    }  # fmt: skip
    given = {
        key: meant.get(key, lambda same: same)(value)
        for key, value in sorted(asked.items())
        if value is not None and value is not False
    }
    key = identity(model)
    question, table = {"model": key, "asked": given}, table_mark(key)
    return place_for(model.name, {**question, "sensitivities": table} if table else question)


def place_of(model: Model, made: Plan, text: str | Path | None = None, pictures: str | Path | None = None) -> Path:
    """For a plan, by its steps and what they were priced for, rounded on a text of its own or on the one that all take,
    and on pictures.

    Memory that nobody chose is what was free, and no part of it.
    """
    budget = asdict(made.budget)
    if "memory_bytes" not in budget.pop("chosen"):
        del budget["memory_bytes"]
    steps = [step.to_json() for step in made.steps]
    asked = {"model": identity(model), "steps": steps, "budget": budget, "threads": made.threads}
    on = {} if text is None else {"text": _said(text)}
    return place_for(model.name, {**asked, **on} if pictures is None else {**asked, **on, "pictures": _shown(pictures)})


def _shown(pictures: str | Path) -> str:
    """The pictures in a folder, and what is said of each, whatever it is called."""
    from pintpot.packer.calibrate.captions import found_pictures, pictures_digest

    return pictures_digest(found_pictures(Path(pictures)))


def _said(text: str | Path) -> str:
    """What is in a file, whatever it is called."""
    from pintpot.packer.calibrate.texts import text_digest

    return text_digest(Path(text).expanduser())


def found_asked(model: Model, asked: dict[str, Any]) -> Path | None:
    """The kept pack of a question, unless it would no longer fit what is free. Raises BadPack for a damaged one."""
    from pintpot.meter.memory import attainable_bytes
    from pintpot.packer.manifest import read_manifest

    folder = place_asked(model, asked)
    if not found_whole(folder):
        return None
    manifest, _ = read_manifest(folder)
    return folder if manifest.plan.cost.memory_high <= attainable_bytes() else None
