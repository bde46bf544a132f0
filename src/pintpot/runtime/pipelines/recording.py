"""The process that records a stage of a pipeline: its network is built without weights, and one call of it recorded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pintpot.meter.home import home
from pintpot.model.adapted import DESCRIPTION
from pintpot.nets._recorded import KEPT, adapt
from pintpot.packer.apart import apart, serve
from pintpot.runtime.pipelines.building import empty, names_in_files, own_errors
from pintpot.runtime.pipelines.denoiser import settle
from pintpot.runtime.pipelines.folder import weight_files
from pintpot.runtime.pipelines.request import INNER, Call, Request

Progress = Callable[[float, str], None]


def place_of(request: Request) -> Path:
    """Where the recording of a request is kept."""
    return home() / KEPT / f"{request.kind}-{request.method}-{request.mark}"


def recorded(request: Request, progress: Progress | None = None) -> Path:
    """The folder of a request's recording, made in a process apart where it is not there yet."""
    place = place_of(request)
    if not (place / DESCRIPTION).is_file():
        apart("pintpot.runtime.pipelines.recording", {"request": asdict(request)}, progress)
    return place


def record_here(request: Request) -> Path:
    """The same in this process. The folder appears whole or not at all. Raises UnsupportedModel, BadInput."""
    place, folder = place_of(request), Path(request.folder)
    if (place / DESCRIPTION).is_file():
        return place
    network = empty(folder, request.library, request.kind)
    names = {f"{INNER}.{name}": called for name, called in names_in_files(network, folder).items()}
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with own_errors(folder, f"{request.kind} cannot compute {request.method} of this call"):
            adapt(
                Call(network, request).eval(), request.zeros(), weights=weight_files(folder), names=names,
                name=f"{folder.name}-{request.method}", folder=draft,
            )  # fmt: skip
        settle(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return place


def _answer(asked: dict[str, Any], progress: Progress) -> dict[str, Any]:
    request = Request(**asked["request"])
    progress(0.1, f"recording {Path(request.folder).name}")
    return {"place": str(record_here(request))}


if __name__ == "__main__":
    serve(_answer)
