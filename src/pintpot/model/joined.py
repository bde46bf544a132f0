"""A model of several parts, each a model of its own in a folder of its own: they are planned, packed and run as one.

`pintpot_parts.json` names them in the order in which a request needs them. A part is a recorded module, or a language
model; the language, of which there is one at most, keeps the names of its weights, and those of every other part begin
with the part's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pintpot.errors import BadFile, UnsupportedModel, need
from pintpot.model.source import LocalFolder, parse_json
from pintpot.model.spec import Block, Model, Part, Source
from pintpot.program.prefix import ONCE

PARTS: Final = "pintpot_parts.json"
VERSION: Final = 1
LANGUAGE: Final = "language"
VISION: Final = "vision"
ASIDE: Final = (f"{VISION}.", ONCE)
"""How the names of weights begin that are needed once for each picture or request, and not for each word."""


def write_parts(
    folder: Path, name: str, parts: Mapping[str, Path], kind: str = "module", about: Mapping[str, Any] | None = None
) -> None:
    """Say which folders are the parts of a model; those inside `folder` may be moved with it. Raises OSError.

    `about` is what a kind of model keeps of all of them together.
    """
    root = folder.resolve()
    places = {part: path.resolve() for part, path in parts.items()}
    listed = [
        {"name": part, "path": str(path.relative_to(root) if path.is_relative_to(root) else path)}
        for part, path in places.items()
    ]
    data = {"version": VERSION, "name": name, "kind": kind, "parts": listed, "about": dict(about or {})}
    draft = folder / f".{PARTS}.draft"
    draft.write_text(json.dumps(data, sort_keys=True), encoding="utf-8")
    draft.replace(folder / PARTS)


def parts_of(folder: Path) -> dict[str, Path]:
    """The folder of each part, in order. Raises BadFile for what `write_parts` did not write."""
    data, where = _read(folder), f"{folder.name}/{PARTS}"
    try:
        found = {str(part["name"]): folder / str(part["path"]) for part in data["parts"]}
        good = len(found) == len(data["parts"]) > 0 and all(name.isidentifier() for name in found)
    except (KeyError, TypeError) as error:
        raise BadFile(f"{where} does not list parts: {error!r}") from error
    need(good, f"{where} names its parts {', '.join(found)!r:.80}", BadFile)
    nested = [name for name, path in found.items() if (path / PARTS).is_file()]
    need(not nested, f"{where}: the part {', '.join(nested)} has parts itself", BadFile)
    return found


def part_folder(source: Path, part: str) -> Path:
    """Where a part of the model at `source` lies; a model of one part is its own."""
    return parts_of(source).get(part, source) if (source / PARTS).is_file() else source


def about_of(folder: Path) -> Mapping[str, Any]:
    """What a kind of model keeps of all parts. Raises BadFile."""
    found = _read(folder).get("about", {})
    need(isinstance(found, Mapping), f"{folder.name}/{PARTS}: about is {found!r:.60}", BadFile)
    return dict(found)


def joined(folder: Path, models: Mapping[str, Model]) -> Model:
    """One model of several, by the names of their parts, with all of their files.

    Raises UnsupportedModel for parts that cannot be one model.
    """
    data, parts, files = _read(folder), list[Part](), list[str]()
    for name, model in models.items():
        (part,) = model.parts
        right = (model.language is not None) == (name == LANGUAGE)
        need(
            right,
            f"{folder.name}: a part that is a language model, and no other, is called {LANGUAGE}",
            UnsupportedModel,
        )
        prefix = "" if name == LANGUAGE else f"{name}."
        parts.append(Part(name, part.family, part.config, _under(part, prefix, len(files)), prefix))
        files += model.source.files
    first = models.get(LANGUAGE, next(iter(models.values())))
    marks = [[name, model.digest] for name, model in models.items()]
    digest = hashlib.sha256(json.dumps([data.get("about", {}), marks], sort_keys=True).encode()).hexdigest()[:16]
    source = Source("parts", str(folder.resolve()), tuple(files))
    return replace(
        first, name=str(data.get("name", folder.name)), kind=str(data.get("kind", "module")), parts=tuple(parts),
        source=source, digest=digest,
    )  # fmt: skip


def _read(folder: Path) -> dict[str, Any]:
    where = f"{folder.name}/{PARTS}"
    data = parse_json(LocalFolder(folder).text(PARTS) or "", where)
    need(data.get("version") == VERSION, f"{where} has version {data.get('version')!r:.40}, not {VERSION}", BadFile)
    return data


def _under(part: Part, prefix: str, first_file: int) -> tuple[Block, ...]:
    """The blocks of a part among others, whose files come first."""
    return tuple(
        Block(
            prefix + block.name,
            tuple(replace(w, name=prefix + w.name, file=first_file + w.file) for w in block.weights),
        )
        for block in part.blocks
    )
