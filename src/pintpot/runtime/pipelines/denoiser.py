"""The denoising network of a diffusers folder as a model of its own: planned, packed and proved like every other."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pintpot.errors import UnsupportedModel, UsageError, need
from pintpot.meter.home import home
from pintpot.model.adapted import DESCRIPTION, describe_adapted
from pintpot.model.spec import Model
from pintpot.nets._recorded import KEPT
from pintpot.packer.apart import apart, serve
from pintpot.runtime.kinds import Published, kind_of
from pintpot.runtime.kinds.diffusion import TASK
from pintpot.runtime.pipelines.folder import (
    CONFIG,
    DENOISERS,
    components,
    is_component,
    is_pipeline,
    schedule_of,
    settings,
    tensors_of,
    weight_files,
)
from pintpot.runtime.published import made_by

Progress = Callable[[float, str], None]


def is_denoiser(path: Path) -> bool:
    """Whether a folder is a pipeline or a network as diffusers writes them."""
    return path.is_dir() and (is_pipeline(path) or is_component(path))


def network_folder(path: Path) -> Path:
    """The folder of the network itself. Raises UnsupportedModel for a pipeline without one."""
    if not is_pipeline(path):
        return path
    found = [part for name, part in components(path).items() if name in DENOISERS and part is not None]
    need(bool(found), f"{path}: its pipeline has none of {', '.join(DENOISERS)}", UnsupportedModel)
    return found[0].folder


def described(path: Path, shapes: Mapping[str, int], progress: Progress | None = None) -> Model:
    """The network in a folder of diffusers, recorded for these shapes in a process apart; seconds the first time.

    Raises UsageError where diffusers is not installed, BadInput or UnsupportedModel with what stands against it.
    """
    missing = [name for name in ("torch", "diffusers") if find_spec(name) is None]
    need(not missing, f"{path.name} is built by {' and '.join(missing)}: pip install pintpot[diffusion]", UsageError)
    folder, place = network_folder(path.resolve()), place_of(path, shapes)
    if not (place / DESCRIPTION).is_file():
        request = {"folder": str(folder), "name": path.resolve().name, "shapes": dict(shapes), "place": str(place)}
        apart("pintpot.runtime.pipelines.denoiser", request, progress)
    return describe_adapted(place)


def place_of(path: Path, shapes: Mapping[str, int]) -> Path:
    """Where the recording of a folder's network is kept."""
    return home() / KEPT / f"{path.resolve().name}-{_mark(network_folder(path.resolve()), shapes)}"


def _mark(folder: Path, shapes: Mapping[str, int]) -> str:
    table = [(name, one.file, one.shape, one.dtype) for name, one in sorted(tensors_of(folder).items())]
    made = made_by("pintpot", "torch", "diffusers")
    parts = [str(folder), sorted(shapes.items()), table, settings(folder, CONFIG), schedule_of(folder), made]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def record_denoiser(folder: Path, name: str, shapes: Mapping[str, int], place: Path) -> None:
    """Record the network into `place`, which appears whole or not at all."""
    import torch

    from pintpot.nets._recorded import adapt
    from pintpot.runtime.pipelines.building import empty, names_in_files, own_errors

    config = settings(folder, CONFIG)
    made = str(config.get("_class_name"))
    need(made.isidentifier(), f"{folder}: a network of the class {made!r:.60}", UnsupportedModel)
    network: Any = empty(folder, "diffusers", made)
    takes = tuple(inspect.signature(network.forward).parameters)
    kind, about = kind_of(Published(folder, made, TASK, dict(network.config), takes, shapes=shapes))
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        inputs = {key: torch.from_numpy(one) for key, one in kind.examples(about).items()}
        with own_errors(folder, "its forward does not take the inputs of its kind"):
            adapt(
                network, inputs, weights=weight_files(folder), names=names_in_files(network, folder), kind=about,
                name=name, folder=draft,
            )  # fmt: skip
        settle(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def settle(draft: Path, place: Path) -> None:
    """A recording into its place; where another process was first, that one's stays."""
    try:
        draft.rename(place)
    except OSError:
        if not (place / DESCRIPTION).is_file():
            shutil.rmtree(place, ignore_errors=True)
            draft.rename(place)


def _answer(asked: dict[str, Any], progress: Progress) -> dict[str, Any]:
    progress(0.1, f"recording {asked['name']}")
    record_denoiser(Path(asked["folder"]), asked["name"], asked["shapes"], Path(asked["place"]))
    return {"place": asked["place"]}


if __name__ == "__main__":
    serve(_answer)
