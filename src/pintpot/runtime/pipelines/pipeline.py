"""diffusers' own pipeline object over a folder, each of its networks replaced by a stage."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pintpot.errors import UnsupportedModel, UsageError, need
from pintpot.runtime.module import warm_up
from pintpot.runtime.pipelines.building import class_of, empty
from pintpot.runtime.pipelines.folder import Component, components, find_folder, pipeline_class
from pintpot.runtime.pipelines.keeper import Keeper, Makers, Receipt
from pintpot.runtime.pipelines.recording import recorded
from pintpot.runtime.pipelines.request import Request
from pintpot.runtime.pipelines.stage import Stage


def open_pipeline(
    folder_or_id: str | Path,
    memory_bytes: int,
    makers: Makers,
    process_bytes: int,
    recorder: Callable[[Request], Path] = recorded,
    **given: Any,
) -> Any:
    """The pipeline; `given` are components of the caller's own, and further arguments of its class.

    Its attribute `keeper` knows what stages hold, promised and took; `promise` says what a call would take.
    Raises UnsupportedModel for a class that is not diffusers' own, BadInput for what is missing, DoesNotFit.
    """
    folder = find_folder(folder_or_id)
    made, parts = class_of("diffusers", pipeline_class(folder)), components(folder)
    networks = {
        name: (part, empty(part.folder, part.library, part.kind))
        for name, part in parts.items()
        if part is not None and part.is_network and name not in given
    }
    need(bool(networks), f"{folder}: no part of it has weights in safetensors", UnsupportedModel)
    others = {
        name: None if part is None else _library_part(part)
        for name, part in parts.items()
        if name not in given and name not in networks
    }
    # What a pipeline can do without is not in its index.
    takes = inspect.signature(made.__init__).parameters.values()
    absent = {one.name: None for one in takes if one.default is one.empty and one.name not in (*parts, *given, "self")}
    # What planning and torch's own libraries take is here before the memory that is left is looked at.
    importlib.import_module("pintpot.planner.make")
    warm_up()
    keeper = Keeper(memory_bytes, makers, process_bytes)
    stages = {name: Stage(part, network, keeper, recorder) for name, (part, network) in networks.items()}
    try:
        pipeline = made(**absent, **others, **stages, **given)
    except TypeError as error:
        raise UsageError(f"{folder}: {made.__name__} cannot be made of {', '.join(parts)}: {error}") from error
    pipeline.keeper, pipeline.promise = keeper, partial(_promise, pipeline)
    return pipeline


def _promise(pipeline: Any, *args: Any, **kwargs: Any) -> Receipt:
    """What the pipeline called so would take, stage by stage: they are recorded and planned, and none is opened.

    Every network answers zeros meanwhile. Raises DoesNotFit where a stage alone is too much for the budget.
    """
    stages = [one for one in pipeline.components.values() if isinstance(one, Stage)]
    keeper = stages[0].keeper
    planned = Keeper.__new__(Keeper)
    planned.__dict__.update(keeper.__dict__, entries=[])
    kept = [stage.__dict__["_entries"] for stage in stages]
    for stage in stages:
        stage.__dict__.update(planning=True, keeper=planned, _entries={})
    try:
        pipeline(*args, **kwargs)
    finally:
        for stage, entries in zip(stages, kept, strict=True):
            stage.__dict__.update(planning=False, keeper=keeper, _entries=entries)
    return planned.promise()


def _library_part(part: Component) -> Any:
    """A part without weights: a schedule, a tokenizer, what prepares images."""
    made = class_of(part.library, part.kind)
    try:
        return made.from_pretrained(part.folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnsupportedModel(f"{part.folder}: {part.library} cannot read it: {error}") from error
