"""The manifest of a pack: the plan inside, where every weight lies, and a checksum for everything that is read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pintpot.errors import BadInput, BadPack
from pintpot.model.spec import Source, TokenizerInfo
from pintpot.packer.layout import Resident
from pintpot.packer.raw import CHECK_BYTES, MANIFEST, VERSION, SmallFile, digest_of, read_unchanged
from pintpot.packer.sound import check_sound
from pintpot.planner.plan import Plan
from pintpot.program.fetch import Piece, Slot


@dataclass(frozen=True, slots=True)
class Packing:
    """What packing took: seconds, and the peak of the process that packed (VmHWM)."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Manifest:
    """Everything about a pack but the weights' bytes.

    `slots` come with their file offset and CRC-32C; the first `num_passing` are read by every pass. `files` are the
    tokenizer's; what reads no text has none. `sample_digest` is that of the source's data (`Store.sample_digest`), ""
    in packs of earlier versions.
    """

    plan: Plan
    source: Source
    context: int
    tokenizer: TokenizerInfo | None
    files: tuple[SmallFile, ...]
    file_bytes: int
    resident_offset: int
    resident_bytes: int
    residents: tuple[Resident, ...]
    resident_crcs: tuple[int, ...]
    slots: tuple[tuple[int, int, Slot], ...]
    num_passing: int
    packing: Packing
    sample_digest: str = ""

    def dumps(self) -> str:
        """The manifest as text, its own digest in it."""
        return with_digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "pintpot_pack": VERSION,
            "plan": self.plan.to_json(),
            **{key: asdict(getattr(self, key)) for key in ("source", "packing")},
            "tokenizer": None if self.tokenizer is None else asdict(self.tokenizer),
            **{key: getattr(self, key) for key in _NUMBERS},
            "sample_digest": self.sample_digest,
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
    return json.dumps({"digest": digest_of(text), **data}, sort_keys=True)


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest of a pack and its digest. Raises BadPack for a folder that is none, was changed, or is newer."""
    data, digest = read_unchanged(folder)
    return manifest_of(folder, data), digest


def manifest_of(folder: Path, data: dict[str, Any]) -> Manifest:
    """The manifest that JSON tells. Raises BadPack where it is not what a packer writes."""
    try:
        manifest = Manifest(
            plan=Plan.from_json(data["plan"]),
            source=Source.from_json(data["source"]),
            tokenizer=None if data["tokenizer"] is None else TokenizerInfo(**data["tokenizer"]),
            files=tuple(SmallFile(*item) for item in data["files"]),
            residents=tuple(Resident(*item) for item in data["residents"]),
            slots=tuple(
                (offset, crc, Slot(num_bytes, tuple(Piece(*piece) for piece in pieces)))
                for offset, crc, num_bytes, pieces in data["slots"]
            ),
            packing=Packing(**data["packing"]),
            resident_crcs=tuple(data["resident_crcs"]),
            sample_digest=data.get("sample_digest", ""),
            **{key: data[key] for key in _NUMBERS},
        )
        check_sound(manifest, CHECK_BYTES)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, BadInput) as error:
        raise BadPack(f"{folder}: {MANIFEST} is not what a pack holds: {error}") from error
    return manifest
