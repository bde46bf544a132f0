"""The process that records how a model sees: transformers builds all of it, and its tower alone is recorded."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from pintpot.errors import UnsupportedModel, need
from pintpot.kernels.torch.examples import Example
from pintpot.model.joined import LANGUAGE, PARTS, VISION, write_parts
from pintpot.nets._recorded import adapt_stages
from pintpot.packer.apart import serve
from pintpot.runtime.building import config_of, settle
from pintpot.runtime.kinds import Published
from pintpot.runtime.loaded import build, own_errors
from pintpot.runtime.processors import processor_settings
from pintpot.runtime.published import files_of
from pintpot.runtime.sights import ROWS, sight

Progress = Callable[[float, str], None]
STAGE = "see"
BY_PROCESSOR = frozenset({"llava"})
"""Sights whose pictures are prepared as the folder's processor says; others have one way of their own."""


def record_sight(folder: Path, name: str, shapes: Mapping[str, int], place: Path, progress: Progress) -> None:
    """Record the tower of a folder's model into `place`, which appears whole or not at all."""
    files, tensors = files_of(folder)
    progress(0.1, "building the model")
    config = config_of(folder)
    module, names = build(folder, config, tensors)
    settings = processor_settings(folder) if name in BY_PROCESSOR else None
    published = Published(folder, type(module).__name__, "", config.to_dict(), (), settings, shapes)
    found = sight(name)
    with own_errors(folder, "its configuration does not say how it sees"):
        about = {"name": name, **found.about(published)}
    paths = {id(one): names.get(path) for path, one in module.named_parameters()}
    with own_errors(folder, "its tower does not take pictures"):
        tower = found.tower(module, about).eval()
    called = {path: paths.get(id(one)) for path, one in tower.named_parameters()}
    inputs = {key: torch.from_numpy(one) for key, one in found.examples(about).items()}
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    progress(0.5, "recording what sees")
    try:
        draft.mkdir(parents=True)
        with own_errors(folder, "its tower does not take pictures"):
            model = adapt_stages(
                tower, (Example(STAGE, inputs, repeats="pictures"),), weights=files,
                names={path: name for path, name in called.items() if name is not None}, kind=about,
                name=folder.name, folder=draft / VISION,
            )  # fmt: skip
        _check(model.parts[0].config["stages"][0], about, folder.name)
        write_parts(draft, folder.name, {VISION: draft / VISION, LANGUAGE: folder}, "vlm")
        settle(draft, place, PARTS)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check(stage: Mapping[str, Any], about: Mapping[str, Any], where: str) -> None:
    """Raise UnsupportedModel unless the tower gives as many rows as a picture is said to take."""
    time, height, width = about["grid"]
    rows = {key: view["sizes"][0] for key, view in stage["outputs"]["dict"].items()}
    good = ROWS in rows and set(rows.values()) == {time * height * width}
    need(good, f"{where}: a picture becomes {rows} rows, not {time * height * width}", UnsupportedModel)


def _answer(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    place = Path(request["place"])
    record_sight(Path(request["folder"]), request["sight"], request["shapes"], place, progress)
    return {"place": str(place)}


if __name__ == "__main__":
    serve(_answer)
