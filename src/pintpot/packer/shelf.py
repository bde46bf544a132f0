"""The packs kept under PINTPOT_HOME: found by what was asked for, listed, and removed when nobody uses them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pintpot.errors import BadInput, BadPack, UsageError, need
from pintpot.meter.home import home
from pintpot.packer.draft import discard, is_draft, sweep
from pintpot.packer.raw import KEPT, OWN_FILES, is_pack, read_raw
from pintpot.packer.unfinished import unfinished

if TYPE_CHECKING:
    from pintpot.model.spec import Model


@dataclass(frozen=True, slots=True)
class Kept:
    """A pack under PINTPOT_HOME: folder, model, bytes on disk and in memory, context in tokens, its plan's steps."""

    folder: Path
    model: str
    num_bytes: int
    memory_bytes: int
    context: int
    steps: tuple[str, ...]


def shelf() -> Path:
    """The folder that holds kept packs."""
    return home() / KEPT


def place_for(model_name: str, asked: Mapping[str, Any]) -> Path:
    """The folder for what was asked: the same question gives the same folder, another question another."""
    text = json.dumps(asked, sort_keys=True, default=str)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model_name).strip("-.")[:60] or "model"
    return shelf() / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def identity(model: Model) -> str:
    """Tells two trainings of one network apart."""
    from pintpot.model.store import Store

    with Store(model) as store:
        return store.sample_digest()


def kept_packs() -> tuple[Kept, ...]:
    """All packs under PINTPOT_HOME, by name; what is no pack is passed over."""
    if not shelf().is_dir():
        return ()
    folders = sorted(path for path in shelf().iterdir() if path.is_dir() and not is_draft(path))
    return tuple(found for found in map(_kept, folders) if found is not None)


def remove_pack(name: str) -> Path:
    """Remove a kept pack by its folder's name, and what waits unfinished under that name (`unfinished` tells).

    Raises UsageError when there is neither, InUse while a process uses it.
    """
    plain = name == Path(name).name and name not in ("", ".", "..")
    need(plain, f"{name!r} is not the name of a kept pack", UsageError)
    folder = shelf() / name
    kept, waiting = folder.is_dir() and is_pack(folder), [one for one in unfinished() if one.name == name]
    if not kept and not waiting:
        known = [*(pack.folder.name for pack in kept_packs()), *dict.fromkeys(one.name for one in unfinished())]
        raise UsageError(f"no pack is kept under the name {name!r}; there are: {', '.join(known) or 'none are kept'}")
    if kept:
        discard(folder)
        forget_damage(folder)
        sweep(shelf())
    for one in waiting:
        # Another process may be packing the same anew.
        if not (kept and one.in_use):
            discard(one.folder)
            sweep(one.folder.parent)
    return folder if kept else waiting[0].folder


def note_damage(folder: Path, why: str) -> None:
    """Remember of a kept pack that its bytes were changed, for the next start that looks for it."""
    if folder.parent == shelf().resolve():
        # A home that cannot be written only means that the damage is found once more.
        with suppress(OSError):
            _note(folder).write_text(why, encoding="utf-8")


def forget_damage(folder: Path) -> None:
    """The folder holds another pack now, or none."""
    _note(folder).unlink(missing_ok=True)


def found_whole(folder: Path) -> bool:
    """Whether a kept pack is there. Raises BadPack where it is known to be damaged."""
    if not folder.exists():
        return False
    if _note(folder).exists():
        raise BadPack(_note(folder).read_text(encoding="utf-8"))
    need(is_pack(folder), f"{folder} is no pack any more", BadPack)
    return True


def clear_damaged(folder: Path) -> None:
    """Make room for a pack in the place of a damaged one. Raises InUse, UsageError where other files lie in there."""
    if folder.is_dir():
        others = ", ".join(sorted(path.name for path in folder.iterdir() if path.name not in OWN_FILES))
        need(not others, f"{folder} holds {others}, which would be lost; take them out", UsageError)
        discard(folder)
    forget_damage(folder)


def _note(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.damaged")


def _kept(folder: Path) -> Kept | None:
    try:
        data = read_raw(folder)
        plan = data["plan"]
        memory = sum(holder["high"] for holder in plan["cost"]["holders"])
        steps = tuple(str(step["name"]) for step in plan["steps"])
        size = sum(path.stat().st_size for path in folder.iterdir())
        context = int(plan["budget"]["workload"]["context"])
        return Kept(folder, str(plan["model_name"]), size, memory, context, steps)
    except (BadInput, KeyError, TypeError, OSError):
        return None
