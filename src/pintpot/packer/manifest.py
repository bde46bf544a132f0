"""The manifest of a pack: the plan inside, where every weight lies, and a checksum for everything that is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput, BadPack, need
from pintpot.model.spec import Source, TokenizerInfo
from pintpot.packer.layout import Resident
from pintpot.planner.plan import Plan
from pintpot.program.fetch import Piece, Slot

VERSION = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
CHECK_BYTES = 1 << 20
"""The resident region carries one checksum for each run of so many bytes."""


@dataclass(frozen=True)
class Manifest:
    """Everything about a pack but the weights' bytes.

    `slots` come with their file offset and CRC-32C; the first `num_passing` are read by every pass.
    """

    plan: Plan
    source: Source
    context: int
    tokenizer: TokenizerInfo
    file_bytes: int
    resident_offset: int
    resident_bytes: int
    residents: tuple[Resident, ...]
    resident_crcs: tuple[int, ...]
    slots: tuple[tuple[int, int, Slot], ...]
    num_passing: int

    def dumps(self) -> str:
        data: dict[str, Any] = {
            "pintpot_pack": VERSION,
            "plan": self.plan.to_json(),
            **{key: asdict(getattr(self, key)) for key in ("source", "tokenizer")},
            **{key: getattr(self, key) for key in _PLAIN},
            "residents": [(item.name, item.offset, item.num_bytes) for item in self.residents],
            "slots": [
                (offset, crc, slot.num_bytes, [(p.weight, p.first_strip, p.num_strips, p.offset) for p in slot.pieces])
                for offset, crc, slot in self.slots
            ],
        }
        text = json.dumps(data, sort_keys=True)
        return json.dumps({"digest": _digest(text), **data}, sort_keys=True)


_PLAIN = ("context", "file_bytes", "resident_offset", "resident_bytes", "resident_crcs", "num_passing")


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a pack and its digest. Raises BadPack for a folder that is none, was changed, or is newer."""
    data = read_raw(folder)
    digest = data.pop("digest", None)
    need(digest == _digest(json.dumps(data, sort_keys=True)), f"{folder}: {MANIFEST} was changed after packing", BadPack)
    try:
        manifest = Manifest(
            plan=Plan.from_json(data["plan"]),
            source=Source(**{**data["source"], "files": tuple(data["source"]["files"])}),
            tokenizer=TokenizerInfo(**data["tokenizer"]),
            residents=tuple(Resident(*item) for item in data["residents"]),
            slots=tuple(
                (offset, crc, Slot(num_bytes, tuple(Piece(*piece) for piece in pieces)))
                for offset, crc, num_bytes, pieces in data["slots"]
            ),
            **{key: tuple(data[key]) if isinstance(data[key], list) else data[key] for key in _PLAIN},
        )
    except (KeyError, TypeError, ValueError, BadInput) as error:
        raise BadPack(f"{folder}: {MANIFEST} is not what a pack holds: {error}") from error
    return manifest, str(digest)


def read_raw(folder: Path) -> dict[str, Any]:
    """The manifest as JSON, its version checked. Raises BadPack."""
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BadPack(f"{folder} is no pack: it has no {MANIFEST}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadPack(f"{path} cannot be read: {error}") from error
    need(isinstance(data, dict) and "pintpot_pack" in data, f"{folder} is no pack", BadPack)
    version = data["pintpot_pack"]
    newer = isinstance(version, int) and version > VERSION
    need(not newer, f"{folder} has pack format {version}, this pintpot reads up to {VERSION}; update pintpot", BadPack)
    need(version == VERSION, f"{folder} has pack format {version!r}, this pintpot reads {VERSION}", BadPack)
    return data


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
