"""The packs kept under PINTPOT_HOME: found by what was asked for, listed, and removed when nobody uses them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput, UsageError, need
from pintpot.meter.home import home
from pintpot.packer.draft import discard, is_draft, sweep
from pintpot.packer.manifest import read_raw
from pintpot.packer.pack import is_pack


@dataclass(frozen=True, slots=True)
class Kept:
    """A pack under PINTPOT_HOME: its folder, its model, its bytes on disk and in memory, and the steps of its plan."""

    folder: Path
    model: str
    num_bytes: int
    memory_bytes: int
    steps: tuple[str, ...]


def shelf() -> Path:
    """The folder that holds kept packs."""
    return home() / "packs"


def place_for(model_name: str, asked: Mapping[str, Any]) -> Path:
    """The folder for what was asked: the same question gives the same folder, another question another."""
    text = json.dumps(asked, sort_keys=True, default=str)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model_name).strip("-.")[:60] or "model"
    return shelf() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def kept_packs() -> tuple[Kept, ...]:
    """All packs under PINTPOT_HOME, by name; what is no pack is passed over."""
    if not shelf().is_dir():
        return ()
    folders = sorted(path for path in shelf().iterdir() if path.is_dir() and not is_draft(path))
    return tuple(found for found in map(_kept, folders) if found is not None)


def remove_pack(name: str) -> Path:
    """Remove a kept pack by its folder's name. Raises UsageError when there is none, InUse while it is open."""
    plain = name == Path(name).name and name not in ("", ".", "..")
    need(plain, f"{name!r} is not the name of a kept pack", UsageError)
    folder = shelf() / name
    if not folder.is_dir() or not is_pack(folder):
        names = ", ".join(kept.folder.name for kept in kept_packs()) or "none are kept"
        raise UsageError(f"no pack is kept under the name {name!r}; there are: {names}")
    discard(folder)
    sweep(shelf())
    return folder


def _kept(folder: Path) -> Kept | None:
    try:
        data = read_raw(folder)
        plan = data["plan"]
        memory = sum(holder["high"] for holder in plan["cost"]["holders"])
        steps = tuple(str(step["name"]) for step in plan["steps"])
        size = sum(path.stat().st_size for path in folder.iterdir())
        return Kept(folder, str(plan["model_name"]), size, memory, steps)
    except (BadInput, KeyError, TypeError, OSError):
        return None
