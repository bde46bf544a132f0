"""A folder as diffusers writes it, read without torch: which networks there are, of what class, and in which files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pintpot.errors import BadFile, BadInput, UnsupportedModel, need
from pintpot.model.hub_files import mapped
from pintpot.model.read import HUB_ID
from pintpot.model.safetensors import parse_safetensors, read_index
from pintpot.model.source import LocalFile, LocalFolder, parse_json
from pintpot.model.spec import Weight

INDEX: Final = "model_index.json"
CONFIG: Final = "config.json"
SCHEDULER: Final = "scheduler"
SCHEDULE: Final = "scheduler_config.json"
STEMS: Final = ("diffusion_pytorch_model", "model")
"""What files of weights are called, by diffusers and by transformers."""
LIBRARIES: Final = ("diffusers", "transformers")
DENOISERS: Final = ("transformer", "unet")
"""What pipelines call the network that is run step by step."""
_CLASS = re.compile(r"[A-Za-z_]\w{0,99}")


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a pipeline: `folder` holds it, `library` and `kind` name its class."""

    name: str
    folder: Path
    library: str
    kind: str

    @property
    def is_network(self) -> bool:
        """Whether it has weights."""
        return bool(weight_files(self.folder))


def find_folder(folder_or_id: str | Path) -> Path:
    """The folder of a pipeline, on the hub fetched into its cache first: safetensors, and files of JSON and text.

    Raises BadInput for what is neither a folder nor a hub id.
    """
    path = Path(folder_or_id).expanduser()
    if path.is_dir():
        return path.resolve()
    known = HUB_ID.fullmatch(str(folder_or_id)) is not None
    need(known, f"{folder_or_id}: no such folder, and no hub id (org/name) either", BadInput)
    from huggingface_hub import snapshot_download

    repo, _, revision = str(folder_or_id).partition("@")
    with mapped(repo):
        kept = [f"*.{end}" for end in ("safetensors", "json", "txt", "model")]
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=kept))


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a pipeline of diffusers."""
    return (folder / INDEX).is_file()


def is_component(folder: Path) -> bool:
    """Whether a folder holds one network as diffusers writes it."""
    path = folder / CONFIG
    return path.is_file() and "_class_name" in parse_json(LocalFolder(folder).text(CONFIG) or "", str(path))


def pipeline_class(folder: Path) -> str:
    """What model_index.json calls the pipeline's class. Raises BadInput, UnsupportedModel for code of the folder."""
    found = _index(folder).get("_class_name")
    where = f"{folder.name}/{INDEX}"
    own = isinstance(found, str) and _CLASS.fullmatch(found) is not None
    need(own, f"{where} names {found!r:.80} as its pipeline; code of a folder is never run", UnsupportedModel)
    return str(found)


def components(folder: Path) -> dict[str, Component | None]:
    """The parts that model_index.json names, None for those that are left out. Raises BadInput, UnsupportedModel."""
    found: dict[str, Component | None] = {}
    for name, about in _index(folder).items():
        if name.startswith("_") or not isinstance(about, list) or len(about) != 2:
            continue
        if about == [None, None]:
            found[name] = None
            continue
        library, kind = about
        known = library in LIBRARIES and isinstance(kind, str) and _CLASS.fullmatch(kind) is not None
        why = f"{folder.name}: {name} is {about!r:.100}, which neither diffusers nor transformers has; no code of a "
        need(known, f"{why}folder is run here", UnsupportedModel)
        need(_CLASS.fullmatch(name) is not None, f"{folder.name}: a part called {name!r:.60}", BadFile)
        found[name] = Component(name, folder / name, library, kind)
    return found


def settings(folder: Path, name: str) -> dict[str, Any]:
    """A configuration in JSON. Raises BadInput where it is not there."""
    text = LocalFolder(folder).text(name) if (folder / name).is_file() else None
    need(text is not None, f"{folder}: there is no {name} in it", BadInput)
    return dict(parse_json(text or "", f"{folder.name}/{name}"))


def schedule_of(folder: Path) -> dict[str, Any]:
    """How the pipeline around a network takes noise away; diffusers' own defaults of DDIM for a network alone."""
    place = folder.parent / SCHEDULER
    if not (is_pipeline(folder.parent) and (place / SCHEDULE).is_file()):
        return {"_class_name": "DDIMScheduler"}
    return settings(place, SCHEDULE)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a network, [] where there are none; what is stored in float16 alone counts as well."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for stem in STEMS:
        for variant in ("", ".fp16"):
            index = f"{stem}.safetensors.index{variant}.json"
            if index in names:
                mapped = read_index(LocalFolder(folder).text(index) or "", index)
                return [folder / one for one in sorted(set(mapped.values()))]
            if f"{stem}{variant}.safetensors" in names:
                return [folder / f"{stem}{variant}.safetensors"]
    return []


def tensors_of(folder: Path) -> Mapping[str, Weight]:
    """Every tensor of a network's files by name, from their headers. Raises BadInput where files are missing."""
    files = weight_files(folder)
    others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    hint = f"; {others[0]} is not read, convert it to safetensors" if others else ""
    need(bool(files), f"{folder}: there are no weights in safetensors{hint}", BadInput)
    missing = [path.name for path in files if not path.is_file()]
    need(not missing, f"{folder}: {', '.join(missing[:3])} is not there", BadInput)
    return {one.name: one for at, path in enumerate(files) for one in parse_safetensors(LocalFile(path), at)}


def _index(folder: Path) -> dict[str, Any]:
    return settings(folder, INDEX)
