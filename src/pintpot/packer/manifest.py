"""The manifest of a pack: the plan inside, where every weight lies, and a checksum for everything that is read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput, BadPack, NewerPack, need
from pintpot.model.spec import Source, TokenizerInfo
from pintpot.packer.checks import crc32c_of_file
from pintpot.packer.layout import Resident
from pintpot.packer.sound import check_sound
from pintpot.planner.plan import Plan
from pintpot.program.fetch import Piece, Slot

VERSION = 2
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
CHECK_BYTES = 1 << 20
"""The resident region carries one checksum for each run of so many bytes."""
MAX_MANIFEST_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file beside the weights, and the CRC-32C of all of it."""

    name: str
    num_bytes: int
    crc: int


@dataclass(frozen=True, slots=True)
class Packing:
    """What packing took: seconds, and the peak of the process that packed (VmHWM)."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Manifest:
    """Everything about a pack but the weights' bytes.

    `slots` come with their file offset and CRC-32C; the first `num_passing` are read by every pass. `files` are the
    tokenizer's.
    """

    plan: Plan
    source: Source
    context: int
    tokenizer: TokenizerInfo
    files: tuple[SmallFile, ...]
    file_bytes: int
    resident_offset: int
    resident_bytes: int
    residents: tuple[Resident, ...]
    resident_crcs: tuple[int, ...]
    slots: tuple[tuple[int, int, Slot], ...]
    num_passing: int
    packing: Packing

    def dumps(self) -> str:
        """The manifest as text, its own digest in it."""
        return with_digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "pintpot_pack": VERSION,
            "plan": self.plan.to_json(),
            **{key: asdict(getattr(self, key)) for key in ("source", "tokenizer", "packing")},
            **{key: getattr(self, key) for key in _NUMBERS},
            "resident_crcs": self.resident_crcs,
            "files": [(item.name, item.num_bytes, item.crc) for item in self.files],
            "residents": [(item.name, item.offset, item.num_bytes) for item in self.residents],
            "slots": [
                (offset, crc, slot.num_bytes, [(p.weight, p.first_strip, p.num_strips, p.offset) for p in slot.pieces])
                for offset, crc, slot in self.slots
            ],
        }

    def same_pack(self, other: Manifest) -> bool:
        """Whether two packs hold the same bytes for the same plan."""
        return replace(self, packing=other.packing) == other


_NUMBERS = ("context", "file_bytes", "resident_offset", "resident_bytes", "num_passing")


def with_digest(data: dict[str, Any]) -> str:
    """A manifest's JSON as text, with the digest that says that nobody changed it."""
    text = json.dumps(data, sort_keys=True)
    return json.dumps({"digest": _digest(text), **data}, sort_keys=True)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a pack and its digest. Raises BadPack for a folder that is none, was changed, or is newer."""
    data = read_raw(folder)
    digest = data.pop("digest", None)
    unchanged = digest == _digest(json.dumps(data, sort_keys=True))
    need(unchanged, f"{folder}: {MANIFEST} was changed after packing", BadPack)
    try:
        manifest = Manifest(
            plan=Plan.from_json(data["plan"]),
            source=Source(**{**data["source"], "files": tuple(data["source"]["files"])}),
            tokenizer=TokenizerInfo(**data["tokenizer"]),
            files=tuple(SmallFile(*item) for item in data["files"]),
            residents=tuple(Resident(*item) for item in data["residents"]),
            slots=tuple(
                (offset, crc, Slot(num_bytes, tuple(Piece(*piece) for piece in pieces)))
                for offset, crc, num_bytes, pieces in data["slots"]
            ),
            packing=Packing(**data["packing"]),
            resident_crcs=tuple(data["resident_crcs"]),
            **{key: data[key] for key in _NUMBERS},
        )
        check_sound(manifest, CHECK_BYTES)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, BadInput) as error:
        raise BadPack(f"{folder}: {MANIFEST} is not what a pack holds: {error}") from error
    return manifest, str(digest)


def read_raw(folder: Path) -> dict[str, Any]:
    """The manifest as JSON, its version checked. Raises BadPack."""
    path = folder / MANIFEST
    try:
        size = path.stat().st_size
        need(size <= MAX_MANIFEST_BYTES, f"{path} has {size} bytes; at most {MAX_MANIFEST_BYTES} are read", BadPack)
        data: Any = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadPack(f"{folder} is no pack: it has no {MANIFEST}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadPack(f"{path} cannot be read: {error}") from error
    need(isinstance(data, dict) and "pintpot_pack" in data, f"{folder} is no pack", BadPack)
    version = data["pintpot_pack"]
    newer = isinstance(version, int) and version > VERSION
    need(
        not newer, f"{folder} has pack format {version}, this pintpot reads up to {VERSION}; update pintpot", NewerPack
    )
    older = f"{folder} has pack format {version!r:.60}, this pintpot reads {VERSION}; pack the model again"
    need(version == VERSION, older, BadPack)
    return dict(data)


def check_files(folder: Path, manifest: Manifest) -> None:
    """Verify the tokenizer's files. Raises BadPack naming the one that is missing, was changed or was added."""
    listed = {item.name for item in manifest.files}
    for path in sorted(folder.iterdir()):
        known = path.name in listed or path.name in (MANIFEST, WEIGHTS)
        need(known, f"{path} was put into the pack after packing; take it out", BadPack)
    for item in manifest.files:
        path = folder / item.name
        try:
            size = path.stat().st_size
            good = size == item.num_bytes and crc32c_of_file(path) == item.crc
        except OSError as error:
            raise BadPack(f"{path} cannot be read: {error.strerror}") from error
        need(good, f"{path} was changed after packing", BadPack)


def small_file(path: Path) -> SmallFile:
    """A file's line of the manifest."""
    return SmallFile(path.name, path.stat().st_size, crc32c_of_file(path))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
