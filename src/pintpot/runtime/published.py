"""Published models without a native family: recorded once, through transformers, and described from then on as kept.

transformers builds the module in a process apart, from config.json alone, with no weights in it; the recording refers
to the folder's own safetensors. It is kept under PINTPOT_HOME by what it was made of: the small files, the names and
shapes of all tensors, the shapes that were asked for, and the versions that recorded it. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Final

from pintpot.errors import BadFile, UsageError, need
from pintpot.meter.home import home
from pintpot.model.adapted import DESCRIPTION, VERSION, describe_adapted
from pintpot.model.hub_folder import SMALL_FILES
from pintpot.model.read import checkpoint
from pintpot.model.source import LocalFolder, parse_json
from pintpot.model.spec import Model
from pintpot.nets._recorded import KEPT
from pintpot.packer.apart import apart

Progress = Callable[[float, str], None]
_LIBRARIES: Final = ("pintpot", "torch", "transformers")
_WAY: Final = 2
"""Raised where models are recorded otherwise than before, so that kept recordings are made anew."""


def described(folder: Path, shapes: Mapping[str, int], progress: Progress | None = None) -> Model:
    """The model in a folder with a config.json of an architecture that transformers has, recorded for these shapes.

    Takes seconds the first time. Raises UsageError where transformers is not installed, BadInput or UnsupportedModel
    with what stands against it.
    """
    need_libraries(folder.name)
    place = home() / KEPT / f"{plain_name(folder.resolve().name)}-{folder_mark(folder, shapes)}"
    if not (place / DESCRIPTION).is_file():
        request = {"folder": str(folder.resolve()), "shapes": dict(shapes), "place": str(place)}
        apart("pintpot.runtime.building", request, progress)
    return describe_adapted(place)


def need_libraries(name: str) -> None:
    """Raise UsageError where what builds published models is not installed."""
    missing = [library for library in ("torch", "transformers") if find_spec(library) is None]
    need(not missing, f"{name} is built by {' and '.join(missing)}: pip install pintpot[hf]", UsageError)


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a folder: its file's name, its shape, and its dtype as safetensors calls it, in lower case."""

    file: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_values(self) -> int:
        return prod(self.shape)


Tensors = Mapping[str, Stored]


def files_of(folder: Path) -> tuple[list[Path], dict[str, Stored]]:
    """The files of weights, and all tensors by name. Raises BadInput where some are missing."""
    tensors, names = checkpoint(LocalFolder(folder))
    return [folder / name for name in names], {t.name: Stored(names[t.file], t.shape, t.dtype) for t in tensors}


def described_export(path: Path, progress: Progress | None = None) -> Model:
    """The module in a `.pt2` file of torch.export, recorded once for the shapes that it was exported for.

    Raises UsageError where PyTorch is not installed, BadFile or UnsupportedModel with what stands against it.
    """
    need(find_spec("torch") is not None, f"{path.name} is read by PyTorch: pip install pintpot[torch]", UsageError)
    about = path.stat()
    parts = [str(path.resolve()), about.st_size, about.st_mtime_ns, VERSION, [_version(name) for name in _LIBRARIES]]
    mark = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    place = home() / KEPT / f"{plain_name(path.stem)}-{mark}"
    if not (place / DESCRIPTION).is_file():
        apart("pintpot.runtime.exporting", {"file": str(path.resolve()), "place": str(place)}, progress)
    return describe_adapted(place)


def model_type(folder: Path) -> str:
    """What config.json calls the architecture. Raises BadFile where it says nothing."""
    config = parse_json(LocalFolder(folder).text("config.json") or "", f"{folder.name}/config.json")
    found = config.get("model_type")
    if not isinstance(found, str):
        raise BadFile(f"{folder.name}/config.json: model_type is missing")
    return found


def folder_mark(folder: Path, shapes: Mapping[str, int]) -> str:
    """Tells a folder, the shapes asked for and the versions that record it from others."""
    _, tensors = files_of(folder)
    table = [(name, one.file, one.shape, one.dtype) for name, one in sorted(tensors.items())]
    parts: list[Any] = [str(folder.resolve()), sorted(shapes.items()), table, VERSION, _WAY]
    digest = hashlib.sha256()
    for name in SMALL_FILES:
        path = folder / name
        digest.update(name.encode() + (path.read_bytes() if path.is_file() else b""))
    parts += [digest.hexdigest(), made_by(*_LIBRARIES)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def made_by(*libraries: str) -> list[str]:
    """Versions of libraries and of what recordings look like: what another one makes is another recording."""
    return [str(VERSION), *map(_version, libraries)]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def plain_name(name: str) -> str:
    """A name that a folder may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60] or "model"
